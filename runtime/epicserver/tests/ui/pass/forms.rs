//! Every form of a method, under every lint that users may have switched on.
#![deny(warnings)]
#![deny(
    missing_docs,
    missing_debug_implementations,
    private_interfaces,
    single_use_lifetimes,
    unnameable_types,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    non_local_definitions,
    let_underscore_drop
)]

pub mod game {
    //! A module whose parts are public, private, and in between.

    use epicserver::prelude::*;

    /// Public, with every form.
    #[derive(Debug, Default)]
    #[entity(key = (u32, String), name = "game.player", class = "gpu", group = |key| key.0, idle = "10m")]
    #[derive(Clone)]
    pub struct Player {
        score: u32,
        friend: Option<Ref<Self>>,
        friends: Vec<Ref<Player>>,
    }

    #[entity]
    #[allow(clippy::len_without_is_empty)]
    impl Player {
        /// Not called from outside.
        pub const MAX: usize = 2;

        /// Left alone.
        pub fn new() -> Self {
            Self::default()
        }

        /// Left alone.
        pub(crate) fn hidden(&self, _text: &str) -> u32 {
            self.private::<3>()
        }

        fn private<const N: u32>(&self) -> u32 {
            N
        }

        /// A turn that reads.
        pub fn score(&self) -> u32 {
            self.score + self.hidden("")
        }

        /// A turn that writes and gives nothing.
        pub fn add(&mut self, mut more: u32, _: (), (a, _b): (u32, u32), _more: u32) {
            more += a;
            self.score += more;
        }

        /// A turn that knows where it runs.
        pub fn meet(&mut self, at: At<Self>, friend: Ref<Self>) -> Result<Vec<Ref<Self>>> {
            self.friend = Some(friend);
            self.friends.push(at.this());
            assert_eq!(at.key().0, 0);
            Ok(self.friends.clone())
        }

        /// A const turn with an array of a constant's length.
        pub const fn array(&self) -> [u32; Self::MAX] {
            [self.score; Self::MAX]
        }

        /// Interleaves.
        pub async fn enter(mut cx: Cx<Self>, level: u8) -> Result<u32> {
            let friend = cx.with(|player| player.friend.clone());
            if let Some(friend) = friend {
                friend.score().await?;
            }
            cx.exclusive(async |player| player.score += u32::from(level)).await
                .map(|()| 3)
        }

        /// Interleaves and gives nothing.
        pub async fn wave(_cx: Cx<Self>) {}

        /// Has it all to itself.
        #[exclusive]
        pub async fn trade(&mut self, at: At<Self>, with: Ref<Player>) -> Result<()> {
            self.score -= 1;
            drop(at);
            with.score().await?;
            Ok(())
        }

        /// Has it all to itself, and says so by a path.
        #[epicserver::exclusive]
        pub async fn rest(&mut self) -> bool {
            true
        }

        /// Eight arguments.
        #[allow(clippy::too_many_arguments)]
        pub fn many(&self, a: u8, b: u16, c: u32, d: u64, e: i8, f: i16, g: i32, h: i64) -> String {
            format!("{a}{b}{c}{d}{e}{f}{g}{h}")
        }

        /// A keyword, and names that generated code has too.
        pub fn r#type(&self, r#fn: u32, target: u32, call: u32, cell: u32, state: u32) -> u32 {
            r#fn + target + call + cell + state
        }

        /// Old.
        #[deprecated]
        pub fn old(&self) {}

        /// Here.
        #[cfg(not(windows))]
        pub fn here(&self) -> u32 {
            1
        }

        /// Not here.
        #[cfg(windows)]
        pub fn there(&self, missing: windows::Missing) -> u32 {
            1
        }
    }

    /// Private to the module, and so is what it takes.
    #[entity]
    #[derive(Default)]
    struct Hidden {
        value: u32,
    }

    #[message]
    struct Secret(u32);

    #[entity]
    impl Hidden {
        pub fn take(&mut self, secret: Secret, other: Ref<Hidden>) -> Secret {
            drop(other);
            self.value = secret.0;
            secret
        }
    }

    /// Calls the private one.
    pub async fn use_hidden(pool: Pool) -> Result<u32> {
        Ok(pool.get::<Hidden>("x").take(Secret(1), pool.get("y")).await?.0)
    }

    pub(crate) mod inner {
        use epicserver::prelude::*;

        /// More private than the entity that takes it.
        #[message]
        pub(super) struct Level(u32);

        #[entity(key = u64)]
        #[derive(Default)]
        pub(crate) struct Crate;

        #[entity]
        impl Crate {
            pub fn level(&mut self, level: Level) -> u32 {
                level.0
            }
        }

        pub(super) async fn call(pool: Pool) -> Result<u32> {
            pool.get::<Crate>(1).level(Level(7)).await
        }
    }

    /// Calls the inner one.
    pub async fn use_inner(pool: Pool) -> Result<u32> {
        inner::call(pool).await
    }
}

/// Names that generated code would meet if it were careless.
mod hostile {
    use epicserver::prelude::{Cx, entity};

    #[allow(dead_code)]
    pub(crate) struct Option;
    #[allow(dead_code)]
    pub(crate) struct Some;
    #[allow(dead_code)]
    pub(crate) struct Result;
    #[allow(dead_code)]
    pub(crate) struct Box;
    #[allow(dead_code)]
    pub(crate) struct Vec;
    #[allow(dead_code)]
    pub(crate) struct Call;
    #[allow(dead_code)]
    pub(crate) struct MineActivate;
    #[allow(dead_code)]
    pub(crate) const POOL: u32 = 1;

    #[entity(key = u64)]
    #[derive(Default)]
    pub(crate) struct Mine;

    #[entity]
    impl Mine {
        pub fn of(&self) -> u32 {
            1
        }
        pub fn target(&self, value: u32) -> u32 {
            value
        }
        pub fn activate(&self) -> u32 {
            2
        }
        pub fn deactivate(&mut self) -> u32 {
            3
        }
        pub fn heap_bytes(&self) -> u32 {
            4
        }
        pub async fn start(_cx: Cx<Self>) -> u32 {
            5
        }
        pub fn pool(&self) -> u32 {
            6
        }
        pub fn output(&self) -> u32 {
            7
        }
        pub fn u32(&self) -> u32 {
            8
        }
        pub fn core(&self) -> u32 {
            9
        }
        pub fn new(&self, value: u32) -> u32 {
            value
        }
        pub fn fmt(&self) -> u32 {
            10
        }
        pub fn hash(&self) -> u32 {
            11
        }
        pub fn timeout(&self) -> u32 {
            12
        }
    }
}

async fn calls(pool: epicserver::Pool) -> epicserver::prelude::Result<()> {
    let mine = pool.get::<hostile::Mine>(1);
    let _: u32 = mine.of().await? + mine.target(1).await? + mine.activate().await?;
    let _: u32 = mine.deactivate().await? + mine.heap_bytes().await? + mine.start().await?;
    let _: u32 = mine.pool().await? + mine.output().await? + mine.u32().await?;
    let _: u32 = mine.core().await? + mine.new(1).await? + mine.fmt().await?;
    let _: u32 = mine.hash().await? + mine.timeout().await?;
    let player = pool.get::<game::Player>((0, "bob".to_owned()));
    player.add(1, (), (1, 2), 3).await?;
    let _met: Vec<epicserver::Ref<game::Player>> = player.meet(player.clone()).await?;
    let _: [u32; 2] = player.array().await?;
    let _: u32 = player.enter(1).await? + player.r#type(1, 2, 3, 4, 5).await?;
    player.wave().await?;
    player.trade(player.clone()).await?;
    let _: bool = player.rest().await?;
    let _many: String = player.many(1, 2, 3, 4, 5, 6, 7, 8).await?;
    let _: u32 = player.here().await?;
    Ok(())
}

fn in_a_function() {
    use epicserver::prelude::*;

    #[message]
    struct Local(u8);

    #[entity]
    #[derive(Default)]
    struct Inside;

    #[entity]
    impl Inside {
        pub fn take(&self, local: Local) -> u8 {
            local.0
        }
    }

    drop(Ref::<Inside>::of("x").take(Local(1)));
}

fn main() {
    use epicserver::__private::{Entity, EntityType, Mode};

    drop(calls(epicserver::Pool::new()));
    drop(game::use_hidden(epicserver::Pool::new()));
    drop(game::use_inner(epicserver::Pool::new()));
    in_a_function();
    let modes: Vec<_> =
        game::Player::METHODS.iter().map(|info| (info.name, info.mode)).collect();
    let expected = [
        ("score", Mode::Turn),
        ("add", Mode::Turn),
        ("meet", Mode::Turn),
        ("array", Mode::Turn),
        ("enter", Mode::Shared),
        ("wave", Mode::Shared),
        ("trade", Mode::Exclusive),
        ("rest", Mode::Exclusive),
        ("many", Mode::Turn),
        ("type", Mode::Turn),
        ("old", Mode::Turn),
        ("here", Mode::Turn),
    ];
    assert_eq!(modes, expected);
    assert_eq!(game::Player::NAME, "game.player");
    assert_eq!(game::Player::IDLE, Some(std::time::Duration::from_secs(600)));
    assert_ne!(game::Player::CLASS, hostile::Mine::CLASS);
    let group = |a: u32, b: &str| game::Player::group(&(a, b.to_owned()));
    assert_eq!(group(1, "a"), group(1, "b"));
    assert_ne!(group(1, "a"), group(2, "a"));
    assert_eq!(hostile::Mine::group(&1), None);
}
