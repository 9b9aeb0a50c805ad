//! Every form of a hook.
#![deny(warnings, unreachable_pub)]

use epicserver::prelude::*;

macro_rules! entity_with_hook {
    ($name:ident { $($hook:tt)* }) => {
        #[entity(key = u64)]
        pub struct $name {
            value: u64,
        }

        #[entity]
        impl $name {
            pub fn value(&self) -> u64 {
                self.value
            }

            $($hook)*
        }
    };
}

entity_with_hook!(Plain {
    #[activate]
    fn make() -> Self {
        Self { value: 1 }
    }
});

entity_with_hook!(WithAt {
    #[activate]
    fn activate(at: At<Self>) -> Self {
        Self { value: at.key() }
    }

    #[deactivate]
    fn deactivate(&mut self, at: At<Self>) {
        self.value = at.key();
    }

    #[memory]
    fn heap_bytes(&self) -> usize {
        0
    }
});

entity_with_hook!(Fallible {
    /// Even public ones are no methods.
    #[activate]
    pub fn make(at: At<Self>) -> Result<Self, &'static str> {
        if at.key() == 0 { Err("zero") } else { Ok(Self { value: at.key() }) }
    }

    #[deactivate]
    pub fn leave(&mut self) {
        self.value = 0;
    }

    #[memory]
    pub fn memory(&self) -> usize {
        8
    }
});

entity_with_hook!(Async {
    #[activate]
    async fn make() -> Self {
        Self { value: 1 }
    }
});

entity_with_hook!(AsyncFallible {
    #[activate]
    async fn make(at: At<Self>) -> Result<Self> {
        let other = at.pool().get::<Plain>(at.key()).value().await?;
        Ok(Self { value: other })
    }
});

/// The hook is not there, so its state comes from `Default`.
#[entity]
#[derive(Default)]
pub struct Conditional;

#[entity]
impl Conditional {
    #[cfg(windows)]
    #[activate]
    fn make() -> Self {
        missing::function()
    }

    #[cfg(windows)]
    #[deactivate]
    fn leave(&mut self) {
        missing::function()
    }

    #[cfg(not(windows))]
    #[memory]
    fn memory(&self) -> usize {
        7
    }
}

#[entity]
#[cfg(windows)]
pub struct Missing(missing::Type);

#[entity]
#[cfg(windows)]
impl Missing {
    pub fn missing(&self) -> missing::Type {
        self.0
    }
}

fn main() {
    use epicserver::__private::Entity;

    assert_eq!(Fallible::METHODS.len(), 1);
    assert_eq!(Fallible { value: 1 }.heap_bytes(), 8);
    assert_eq!(Conditional.heap_bytes(), 7);
    assert_eq!(Conditional::METHODS.len(), 0);
    let hooks: [fn(At<AsyncFallible>) -> _; 1] = [AsyncFallible::activate];
    assert_eq!(hooks.len(), 1);
}
