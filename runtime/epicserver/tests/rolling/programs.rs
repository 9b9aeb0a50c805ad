//! The programs that follow each other: what their nodes serve, and how a test has them called.

use epicserver::prelude::*;
use epicserver::{Builder, Client};

use crate::KEYS;

/// A program, whichever types it has.
pub(crate) struct Program {
    pub(crate) register: fn(Builder) -> Builder,
    /// Calls all accounts at once.
    pub(crate) add_to_all: fn(&Client) -> Vec<Result<u64>>,
    /// Calls the method of that name of one account.
    pub(crate) call: fn(&Client, &str, u64) -> Result<String>,
}

/// The second program while the first one is there.
pub(crate) const CAREFUL: u32 = 12;

/// The program of that number.
pub(crate) fn program(number: u32) -> Program {
    match number {
        1 => first::PROGRAM,
        2 => second::PROGRAM,
        CAREFUL => careful::PROGRAM,
        other => panic!("there is no program {other}"),
    }
}

mod first {
    use super::*;

    #[entity(key = u64, saved = "every_turn")]
    #[derive(Default)]
    pub(super) struct Account {
        cents: u32,
    }

    #[entity]
    impl Account {
        pub fn add(&mut self) -> u64 {
            self.cents += 1;
            u64::from(self.cents)
        }

        pub fn process(&self) -> u32 {
            std::process::id()
        }

        pub fn describe(&self) -> String {
            format!("{} cents", self.cents)
        }
    }

    pub(super) const PROGRAM: Program = Program {
        register: |builder| builder.entity::<Account>(),
        add_to_all: |client| {
            client.block_on(async {
                let calls: Vec<_> = (0..KEYS).map(|key| client.get::<Account>(key).add()).collect();
                futures_util::future::join_all(calls).await
            })
        },
        call: |client, method, key| {
            let account = client.get::<Account>(key);
            client.block_on(async {
                match method {
                    "add" => Ok(account.add().await?.to_string()),
                    "process" => Ok(account.process().await?.to_string()),
                    "describe" => account.describe().await,
                    other => panic!("it has no method {other}"),
                }
            })
        },
    };
}

/// The second program; `$options` say whether it writes as the first one does.
macro_rules! second {
    ($name:ident, $($options:tt)*) => {
        mod $name {
        use super::*;

        #[message]
        pub(super) struct AccountV1 {
            cents: u32,
        }

        #[entity(key = u64, saved = "every_turn", upgrades(AccountV1), $($options)*)]
        #[derive(Default)]
        pub(super) struct Account {
            cents: u64,
            owner: String,
        }

        impl From<AccountV1> for Account {
            fn from(old: AccountV1) -> Self {
                Self { cents: u64::from(old.cents), owner: "nobody".to_owned() }
            }
        }

        impl From<&Account> for AccountV1 {
            fn from(new: &Account) -> Self {
                Self { cents: u32::try_from(new.cents).unwrap_or(u32::MAX) }
            }
        }

        #[entity]
        impl Account {
            pub fn add(&mut self) -> u64 {
                self.cents += 1;
                self.cents
            }

            pub fn process(&self) -> u32 {
                std::process::id()
            }

            /// In another form than before.
            pub fn describe(&self) -> (u64, String) {
                (self.cents, self.owner.clone())
            }

            /// Not there before.
            pub fn give(&mut self, owner: String) -> String {
                self.owner = owner;
                self.owner.clone()
            }
        }

        /// Not there before.
        #[entity(key = u64)]
        #[derive(Default)]
        pub(super) struct Audit {
            count: u64,
        }

        #[entity]
        impl Audit {
            pub fn add(&mut self) -> u64 {
                self.count += 1;
                self.count
            }
        }

        pub(super) const PROGRAM: Program = Program {
            register: |builder| builder.entity::<Account>().entity::<Audit>(),
            add_to_all: |client| {
                client.block_on(async {
                    let calls: Vec<_> = (0..KEYS).map(|key| client.get::<Account>(key).add()).collect();
                    futures_util::future::join_all(calls).await
                })
            },
            call: |client, method, key| {
                let account = client.get::<Account>(key);
                client.block_on(async {
                    match method {
                        "add" => Ok(account.add().await?.to_string()),
                        "process" => Ok(account.process().await?.to_string()),
                        "describe" => account.describe().await.map(|said| format!("{said:?}")),
                        "give" => account.give("Bob".to_owned()).await,
                        "audit" => Ok(client.get::<Audit>(key).add().await?.to_string()),
                        other => panic!("it has no method {other}"),
                    }
                })
            },
        };
        }
    };
}

second!(careful, writes = 1);
second!(second,);
