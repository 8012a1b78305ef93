/// Orders to an account.
#[derive(Clone, Debug)]
pub enum Command {
    /// Register a person. The address was checked and its claim goes with the same append.
    Register {
        /// The new account.
        account: crate::id::AccountId,
        /// Address as written, without surrounding blanks.
        email: String,
        /// Display name.
        name: String,
        /// argon2id PHC string.
        password_hash: String,
    },
}
