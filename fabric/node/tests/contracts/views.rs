//! What nodes write for one another: views, deltas, and the records of leases.

use epicserver_proto::control::{Config, Control, Effect, Event, SAID_BYTES_MAX};
use epicserver_proto::view::{Delta, Member, Past, Record, Share, View, Wants};
use epicserver_wire::{ClassId, NodeId, Time};

use crate::page::{Page, hex};

pub(crate) fn render(page: &mut Page) {
    page.section("views and leases");
    let (before, after) = (view(), later());
    record(page);
    let mut fields = whole(page, "view", &before.write());
    for (tag, value) in fields.drain(..) {
        match tag {
            2 => members(page, &value),
            3 => {
                parts(&value).iter().for_each(|past| page.text(&format!("    past  {}", hex(past))))
            }
            _ => {}
        }
    }
    let delta = Delta::between(&before, &after).expect("its history is at hand");
    whole(page, "delta from it to a later one", &delta.write());
    said(page);
}

/// What a control thread says, as a real one does: node 1, which has slots that node 2 had before.
fn said(page: &mut Page) {
    page.section("messages of the kind Control");
    page.line("bytes at most", SAID_BYTES_MAX);
    let plain = |node: u64| Member::of(NodeId::new(node), 1);
    let past = Past { number: 2, shares: vec![Share::of(NodeId::new(2))] };
    let view = View { number: 3, members: vec![plain(1), plain(2)], history: vec![past] };
    let whole = [&[4], &view.write()[..]].concat();
    let mut node = Control::new(Config::default());
    let (mut now, mut out) = (Time::from_nanos(1), Vec::new());
    node.handle(now, Event::Begin { member: plain(1), seed: 7 }, &mut out);
    let from = NodeId::new(2);
    node.handle(now, Event::Said { from, bytes: &whole }, &mut out);
    let asks = says(&mut out);
    page.line("a question: parts", asks.len());
    let first = asks.first().expect("it waits for node 2");
    page.line("    the first", format!("{} bytes: {} ...", first.len(), hex(&first[..20])));
    let asked = [&[2], &3_u64.to_le_bytes()[..], &[0; 2], &[0], &[1, 2, 3, 4]].concat();
    page.line("asked for two slots", hex(&asked));
    node.handle(now, Event::Said { from, bytes: &asked }, &mut out);
    says(&mut out).iter().for_each(|said| page.line("    the answer", hex(said)));
    page.line("a whole view begins", hex(&whole[..3]));
    let later = View { number: 4, members: vec![plain(1)], history: Vec::new() };
    let delta =
        Delta::between(&View { history: Vec::new(), ..view }, &later).expect("it has no history");
    page.line("a delta begins", hex(&[&[5], &delta.write()[..2]].concat()));
    while out.is_empty() {
        now = node.deadline().expect("a member has always something to do").max(now);
        node.handle(now, Event::Time, &mut out);
        out.retain(
            |effect| matches!(effect, Effect::Say { bytes, .. } if bytes.first() == Some(&1)),
        );
    }
    says(&mut out).iter().for_each(|said| page.line("suspicion, a ping", hex(said)));
}

fn says(out: &mut Vec<Effect>) -> Vec<Vec<u8>> {
    let said = out.drain(..).filter_map(|effect| {
        let Effect::Say { bytes, .. } = effect else { return None };
        Some(bytes)
    });
    said.collect()
}

fn member(node: u64) -> Member {
    Member {
        share: Share {
            node: NodeId::new(0x1112_1314_1516_1700 + node),
            weight: 0x0201,
            classes: vec![ClassId::DEFAULT, ClassId::from_u16(0x0403)],
        },
        shards: 0x0605,
        addresses: vec!["tcp://a:1".to_owned(), "shm://b".to_owned()],
        name: "name".to_owned(),
        leaving: node > 1,
        later: Vec::new(),
    }
}

fn view() -> View {
    let shares = vec![member(1).share, Share::of(NodeId::new(0x2122_2324_2526_2728))];
    let history = vec![Past { number: 0x0102_0304_0506_0708, shares }];
    View { number: 0x1102_0304_0506_0708, members: vec![member(1), member(2)], history }
}

fn later() -> View {
    let before = view();
    let history = vec![before.history[0].clone(), before.as_past()];
    View { number: before.number + 1, members: vec![member(1), member(3)], history }
}

fn record(page: &mut Page) {
    let of = |wants| Record { member: member(2), wants, settled: 0x0807_0605_0403_0201 };
    for (tag, value) in whole(page, "record of a lease", &of(Wants::Join).write()) {
        if tag == 1 {
            page.text("    its member");
            fields(page, "        ", &value);
        }
    }
    for wants in [Wants::Join, Wants::Stay, Wants::Leave] {
        page.line(&format!("    wants {}", wants as u8), format!("{wants:?}"));
    }
}

fn members(page: &mut Page, bytes: &[u8]) {
    for member in parts(bytes) {
        page.text("    a member");
        fields(page, "        ", &member);
    }
}

/// Version, then tag, bytes and value of each field; gives the fields.
fn whole(page: &mut Page, name: &str, bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    page.line(name, format!("{} bytes", bytes.len()));
    let (version, rest) = bytes.split_at(2);
    page.text(&format!("    {}", hex(version)));
    fields(page, "    ", rest)
}

fn fields(page: &mut Page, indent: &str, mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<6>() {
        let len = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
        let (value, tail) = tail.split_at(usize::try_from(len).expect("it is short"));
        page.text(&format!("{indent}{} {} {}", hex(&head[..2]), hex(&head[2..]), hex(value)));
        all.push((u16::from_le_bytes([head[0], head[1]]), value.to_vec()));
        rest = tail;
    }
    assert!(rest.is_empty(), "fields fill the bytes");
    all
}

/// Parts behind their lengths.
fn parts(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let len = usize::try_from(u32::from_le_bytes(*len)).expect("it is short");
        let (part, tail) = tail.split_at(len);
        all.push(part.to_vec());
        rest = tail;
    }
    all
}
