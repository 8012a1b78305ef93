/// Orders to the claim on an address.
#[derive(Clone, Debug)]
pub enum Command {
    /// Take the address for an account.
    Claim {
        /// The account.
        account: crate::id::AccountId,
    },
    /// Give the address up.
    Release {
        /// The account that holds it.
        account: crate::id::AccountId,
    },
}
