//! `#[entity(serde)]` and `#[message(serde)]`: what programs outside of the fabric read and write.

use epicserver::prelude::*;

#[entity(key = u64, serde)]
#[derive(Default, Debug, PartialEq)]
struct Account {
    cents: i64,
    owners: Vec<Ref<Person>>,
}

#[entity]
impl Account {
    pub fn cents(&self) -> i64 {
        self.cents
    }
}

#[entity(serde)]
#[derive(Default, Debug)]
struct Person {
    name: String,
}

#[entity]
impl Person {
    pub fn name(&self) -> String {
        self.name.clone()
    }
}

#[message(serde)]
#[derive(Debug, PartialEq)]
struct Order {
    from: Ref<Account>,
    cents: i64,
}

#[test]
fn states_and_messages_return_from_json_as_they_were() {
    let pool = Pool::new();
    let account = Account { cents: -5, owners: vec![pool.get("Ada"), pool.get("Grace")] };
    let text = serde_json::to_string(&account).unwrap();
    assert_eq!(serde_json::from_str::<Account>(&text).unwrap(), account);
    let order = Order { from: pool.get(7), cents: 100 };
    let text = serde_json::to_string(&order).unwrap();
    assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
}

#[test]
fn a_text_that_is_no_reference_of_the_type_is_refused() {
    let person = serde_json::to_string(&Pool::new().get::<Person>("Ada")).unwrap();
    for text in [&*person, "\"\"", "\"0\"", "\"zz\"", "\"+1\"", "7"] {
        let read = serde_json::from_str::<Ref<Account>>(text);
        assert!(read.is_err(), "{text}");
    }
    let error = serde_json::from_str::<Ref<Account>>(&person).unwrap_err();
    assert!(error.to_string().contains("is no reference to a "), "{error}");
}
