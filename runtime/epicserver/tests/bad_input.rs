//! What a node is not meant to be given: each is refused with a clear error, and nothing is lost.

mod common;

use common::{Gate, node, on_nodes, within};
use epicserver::prelude::*;
use epicserver::{Builder, Registry, limits};

#[entity]
#[derive(Default)]
struct Shelf {
    books: Vec<String>,
}

#[entity]
impl Shelf {
    pub fn put(&mut self, book: String) -> u32 {
        self.books.push(book);
        u32::try_from(self.books.len()).unwrap_or(u32::MAX)
    }

    #[exclusive]
    pub async fn hold(&mut self, gate: Ref<Gate>) -> Result<()> {
        gate.pass().await
    }
}

/// As big as its key says, and ticking.
#[entity(key = u64)]
struct Big {
    bytes: usize,
}

#[entity]
impl Big {
    #[activate]
    fn make(at: At<Self>) -> Self {
        at.every(std::time::Duration::from_secs(1), async |_cx: Cx<Self>| {});
        Self { bytes: usize::try_from(at.key()).unwrap_or(usize::MAX) }
    }

    #[memory]
    fn heap(&self) -> usize {
        self.bytes
    }

    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    pub async fn busy(_cx: Cx<Self>, gate: Ref<Gate>) -> Result<()> {
        gate.pass().await
    }
}

/// Its hook that measures it panics.
#[entity(key = u64)]
#[derive(Default)]
struct Unmeasured;

#[entity]
impl Unmeasured {
    #[memory]
    fn heap(&self) -> usize {
        panic!("it cannot be measured")
    }

    pub fn call(&self) -> bool {
        true
    }
}

/// Served by no node.
#[entity(key = u64)]
#[derive(Default)]
struct Unknown;

#[entity]
impl Unknown {
    pub fn call(&self, number: u64) -> u64 {
        number
    }
}

fn all(builder: Builder) -> Builder {
    builder.entity::<Shelf>().entity::<Big>().entity::<Unmeasured>()
}

#[test]
fn a_key_over_the_cap_is_refused_and_one_at_the_cap_is_not() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        let at_the_cap = pool.get::<Shelf>("x".repeat(limits::KEY_BYTES_MAX));
        assert_eq!(at_the_cap.put("a".to_owned()).await, Ok(1));
        let over = pool.get::<Shelf>("x".repeat(limits::KEY_BYTES_MAX + 1));
        let error = over.put("b".to_owned()).await.unwrap_err();
        assert_eq!((error.kind(), error.ran()), (ErrorKind::KeyTooLong, Ran::No));
        over.put("c".to_owned()).tell();
    });
}

#[test]
fn a_state_that_does_not_fit_the_budget_is_refused() {
    fn small(builder: Builder) -> Builder {
        all(builder).memory_bytes_max(10_000)
    }
    on_nodes(&[1], small, async |pool: Pool| {
        let gate = pool.get::<Gate>(1);
        for bytes in [20_000, u64::from(u32::MAX), u64::MAX] {
            let error = pool.get::<Big>(bytes).bytes().await.unwrap_err();
            assert_eq!((error.kind(), error.ran()), (ErrorKind::OutOfBudget, Ran::No));
        }
        let busy = pool.get::<Big>(6000).busy(gate.clone());
        gate.came(1).await.unwrap();
        let error = pool.get::<Big>(6001).bytes().await.unwrap_err();
        assert_eq!((error.kind(), error.ran()), (ErrorKind::OutOfBudget, Ran::No));
        gate.open().await.unwrap();
        busy.await.unwrap();
        assert_eq!(pool.get::<Big>(6001).bytes().await, Ok(6001), "the other one has left");
    });
}

#[test]
fn a_state_that_cannot_be_measured_is_served_all_the_same() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..4 {
            assert_eq!(pool.get::<Unmeasured>(key).call().await, Ok(true));
        }
    });
}

#[test]
fn a2_a_full_mailbox_refuses_and_loses_nothing_of_what_it_took() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in ["a", "b"] {
            let gate = pool.get::<Gate>(u64::from(key.as_bytes()[0]));
            let shelf = pool.get::<Shelf>(key);
            let held = shelf.hold(gate.clone());
            gate.came(1).await.unwrap();
            let over = 100;
            let books = limits::MAILBOX_MAX + over;
            let calls: Vec<_> = (0..books).map(|_| shelf.put("book".to_owned())).collect();
            gate.open().await.unwrap();
            held.await.unwrap();
            let (mut put, mut refused) = (0, 0);
            for call in calls {
                match call.await {
                    Ok(number) => {
                        put += 1;
                        assert_eq!(number, put, "in the order of calling");
                    }
                    Err(error) => {
                        refused += 1;
                        assert_eq!((error.kind(), error.ran()), (ErrorKind::Overloaded, Ran::No));
                    }
                }
            }
            assert!(refused > 0, "the mailbox is bounded");
            assert_eq!(put + refused, books);
            assert_eq!(shelf.put("last".to_owned()).await, Ok(put + 1));
        }
    });
}

#[test]
fn a_call_of_a_type_that_no_node_serves_is_refused() {
    on_nodes(&[1, 2], all, async |pool: Pool| {
        for key in 0..8 {
            let error = pool.get::<Unknown>(key).call(1).await.unwrap_err();
            assert_eq!((error.kind(), error.ran()), (ErrorKind::UnknownType, Ran::No));
            pool.get::<Unknown>(key).call(1).tell();
        }
    });
    within(|| {
        let node = node(2, true).start().unwrap();
        let client = node.client();
        let error = client.block_on(client.get::<Unknown>(1).call(1)).unwrap_err();
        assert_eq!((error.kind(), error.ran()), (ErrorKind::UnknownType, Ran::No));
        assert!(node.stop());
    });
}

#[test]
fn a_method_that_is_not_registered_is_not_found() {
    use epicserver::__private::{Entity, EntityType};

    let mut registry = Registry::default();
    registry.add::<Shelf>().unwrap();
    assert!(registry.method(Shelf::METHODS[0].id).is_some());
    assert!(registry.method(Unknown::METHODS[0].id).is_none());
    assert!(registry.entity(Unknown::TYPE_ID).is_none());
}

#[test]
fn arguments_of_hostile_bytes_are_malformed() {
    use epicserver::__private::wire::frame::{Frame, Part};
    use epicserver::__private::{Coded, Entity, Target};

    let put = &Shelf::METHODS[0];
    let shelf = || Target::new(Ref::id(&Ref::<Shelf>::of("x")).clone());
    let book = ("a book with a long name".to_owned(),).encode().unwrap();
    let shortened = (0..book.len()).map(|len| book[..len].to_vec());
    let changes = (0..book.len()).flat_map(|index| [0, 0x7f, 0x80, 0xff].map(|byte| (index, byte)));
    let changed = changes.map(|(index, byte)| {
        let mut bytes = book.clone();
        bytes[index] = byte;
        bytes
    });
    for bytes in shortened.chain(changed) {
        // Some of these are other names; none of them does harm.
        if let Ok(request) = (put.read)(shelf(), Part::all(&Frame::copy_of(&bytes))) {
            assert!(request.args::<(String,)>().is_some());
        }
    }
    for malformed in [&[][..], &[1, 2, 3], &[0x80; 64]] {
        assert!(
            (put.read)(shelf(), Part::all(&Frame::copy_of(malformed))).is_err(),
            "{malformed:?}"
        );
    }
    let hold = Shelf::METHODS.iter().find(|method| method.name == "hold").unwrap();
    assert!((hold.read)(shelf(), Part::all(&Frame::copy_of(&[1, 2, 3]))).is_err());
    assert!((hold.read)(shelf(), Part::all(&Frame::copy_of(&[]))).is_err());
}

#[test]
fn arguments_that_were_written_are_read_again() {
    use epicserver::__private::wire::frame::{Frame, Part};
    use epicserver::__private::{Coded, Entity, Target};

    let bytes = ("book".to_owned(),).encode().unwrap();
    let target = Target::new(Ref::id(&Ref::<Shelf>::of("x")).clone());
    let request = (Shelf::METHODS[0].read)(target, Part::all(&Frame::copy_of(&bytes))).unwrap();
    assert_eq!(request.args::<(String,)>(), Some(&("book".to_owned(),)));
}

#[test]
fn a_call_outside_of_any_entity_is_refused() {
    within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = runtime.block_on(Ref::<Shelf>::of("x").put("a".to_owned())).unwrap_err();
        assert_eq!((error.kind(), error.ran()), (ErrorKind::NotInAnEntity, Ran::No));
        Pool::new().get::<Shelf>("x").put("b".to_owned()).tell();
    });
}

#[test]
fn two_types_of_one_name_are_refused_at_the_start() {
    mod other {
        use epicserver::prelude::*;

        #[entity(name = "Shelf")]
        #[derive(Default)]
        pub(super) struct Board;

        #[entity]
        impl Board {
            pub fn look(&self) {}
        }
    }
    let error = all(Node::builder()).entity::<other::Board>().pin(false).start().unwrap_err();
    assert!(error.to_string().contains("have one id"), "{error}");
}
