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
    /// Forget the person. Who may want that was checked before.
    RequestErasure,
    /// Everything that could tell about the person is unreadable or deleted.
    FinishErasure {
        /// The account.
        account: crate::id::AccountId,
    },
}
