//! A new migration is a new build: the macro that embeds them sees only those it knows.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
