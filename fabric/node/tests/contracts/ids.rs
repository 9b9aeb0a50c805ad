//! Ids: what names become, and how ids of entities, chains and sections are written and hashed.

use epicserver_wire::{
    ChainId, ClassId, EntityId, EntityKey, IntoKey as _, Key, MethodId, SectionId, Time, TypeId,
    uuid::Uuid,
};

use crate::page::{Page, hex};

pub(crate) fn render(page: &mut Page) {
    page.section("ids that are functions of names");
    for name in ["Player", "Barrel", "é"] {
        page.line(&format!("type {name}"), format!("{:08x}", TypeId::of(name).as_u32()));
    }
    for name in ["", "gpu", "store"] {
        page.line(&format!("class \"{name}\""), format!("{:04x}", ClassId::of(name).as_u16()));
    }
    for (entity, method) in [("Player", "score"), ("Barrel", "on_hit"), ("Playe", "rscore")] {
        let id = MethodId::of(entity, method);
        page.line(&format!("method {entity}::{method}"), format!("{:08x}", id.as_u32()));
    }
    page.section("chains and sections");
    let chain = ChainId::new(Time::from_nanos(0x0807_0605_0403_0201), 0x1817_1615_1413_1211);
    page.line("chain", hex(&chain.to_bytes()));
    let section = SectionId::new(0xff03_0201, 0x0908_0706);
    page.line("section 0x09080706 of ff030201", format!("{:016x}", section.as_u64()));
    keys(page);
    entities(page);
}

fn keys(page: &mut Page) {
    page.section("keys: form, payload");
    let uuid = Uuid::from_bytes(std::array::from_fn(|at| u8::try_from(at).unwrap_or(0)));
    let long = "k".repeat(513);
    let samples: [(&str, Key); 10] = [
        ("7_u64", 7_u64.to_key()),
        ("7_u8", 7_u8.to_key()),
        ("-7_i64", (-7_i64).to_key()),
        ("7_u128", 7_u128.to_key()),
        ("-7_i128", (-7_i128).to_key()),
        ("\"bob\"", "bob".into_key()),
        ("a uuid", uuid.to_key()),
        ("(7_u64, \"bob\")", (7_u64, "bob".to_owned()).to_key()),
        ("((1_u64, -1_i64), \"\")", ((1_u64, -1_i64), String::new()).to_key()),
        ("a text of 513 bytes", long.as_str().into_key()),
    ];
    for (name, key) in samples {
        page.line(name, format!("{} {}", key.form_byte(), hex(key.payload())));
    }
}

fn entities(page: &mut Page) {
    page.section("ids of entities: pinned form, hash, slot, and shard of 2, 7 and 64");
    let (player, piece) = (TypeId::of("Player"), TypeId::of("Piece"));
    let game = EntityId::group_of(&"game 1".into_key());
    page.line("group \"game 1\"", format!("{game:016x}"));
    let samples = [
        ("Player 7", EntityId::new(player, ClassId::DEFAULT, None, 7_u64.to_key())),
        ("Player \"bob\"", EntityId::new(player, ClassId::DEFAULT, None, "bob".into_key())),
        ("Piece 1, of class gpu", EntityId::new(piece, ClassId::of("gpu"), None, 1_u64.to_key())),
        (
            "Piece 1, of the group",
            EntityId::new(piece, ClassId::DEFAULT, Some(game), 1_u64.to_key()),
        ),
    ];
    for (name, id) in samples {
        page.line(name, hex(&id.to_bytes()));
        let shards = [2, 7, 64].map(|shards| id.shard(shards).index());
        page.line("", format!("{:016x} {:04x} {shards:?}", id.hash(), id.slot()));
    }
}
