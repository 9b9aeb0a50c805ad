//! The coordinator `etcd` on a real member: the conformance suite, and what only it has.

mod authority;
mod common;
mod fake;

use std::time::{Duration, Instant};

use authority::Authority;
use common::{Member, encode};
use epicserver_coordinator::conformance::{Client, Cut, Lacks, Subject, or_skip, server};
use epicserver_coordinator::{Answer, Ask, AskId, Coordinator, Wake};
use epicserver_etcd::{Options, User, VIEW_BYTES_MAX, open};
use epicserver_wire::NodeId;
use fake::Fake;
use serde_json::json;

const LONG: Duration = Duration::from_secs(3600);

/// A fabric in a cluster that others may use too.
struct OfMember {
    member: Member,
    fabric: String,
}

impl OfMember {
    fn options(&self) -> Options {
        Options {
            endpoints: vec![self.member.through_proxy()],
            tls: None,
            user: None,
            prefix: "/epicserver/".to_owned(),
            fabric: self.fabric.clone(),
        }
    }

    fn key(&self, rest: &str) -> String {
        format!("/epicserver/{}/{rest}", self.fabric)
    }
}

impl Subject for OfMember {
    fn open(&self, wake: Wake) -> Result<Box<dyn Coordinator>, String> {
        Of(self.options()).open(wake)
    }

    fn another(&self) -> Box<dyn Subject> {
        let fabric = format!("{}+", self.fabric);
        // Whoever has spoilt the one before has spoilt that alone.
        self.member.remove(&format!("/epicserver/{fabric}/"));
        Box::new(Self { member: self.member.clone(), fabric })
    }

    fn restart(&self) -> bool {
        self.member.with_server(server::Server::restart);
        true
    }

    fn forget(&self, node: NodeId) -> bool {
        self.member.put(&self.key("ended"), b"");
        self.member.remove(&self.key(&format!("record/{node}")));
        self.member.remove(&self.key(&format!("alive/{node}")));
        true
    }

    fn spoil(&self, way: usize) -> Option<&'static str> {
        let node = NodeId::new(1);
        let nothing = "holds nothing of a coordinator's";
        let (put, remove) = (
            |rest: &str, value: &[u8]| self.member.put(&self.key(rest), value),
            |rest: &str| self.member.remove(&self.key(rest)),
        );
        match way {
            0 => put("number", b"somebody else's"),
            1 => put("number", b"1 -1 0 0"),
            2 => put("ended", b"somebody else's"),
            3 => put(&format!("record/{node}"), &[0; 9000]),
            4 => put("record/somebody", b"else's"),
            5 => put(&format!("alive/{node}"), b"for ever"),
            6 => remove("number"),
            7 => remove("view/"),
            _ => return None,
        }
        Some(match way {
            6 => "number is gone, and there are leases",
            7 => "is not whole",
            _ => nothing,
        })
    }

    fn cut(&self, what: Cut) -> bool {
        // As many bytes of the key as stand for themselves in base64.
        let key = match what {
            Cut::Change => self.key("number"),
            Cut::Renew => self.key("record/"),
            Cut::Release => self.key("released/"),
        };
        let key = encode(&key[..key.len() - key.len() % 3]);
        self.member.proxy().cut_after(format!("\"request_put\":{{\"key\":\"{key}").as_bytes());
        true
    }

    fn view_bytes_max(&self) -> usize {
        VIEW_BYTES_MAX
    }

    fn stall(&self, stalled: bool) -> bool {
        self.member.proxy().stall(stalled);
        true
    }
}

/// A subject of options alone.
struct Of(Options);

impl Subject for Of {
    fn open(&self, wake: Wake) -> Result<Box<dyn Coordinator>, String> {
        let near = open(&self.0, wake).map_err(|error| error.to_string())?;
        Ok(Box::new(near))
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Self(self.0.clone()))
    }
}

fn subject() -> Result<OfMember, Lacks> {
    Member::start().map(|member| OfMember { member, fabric: "fabric".to_owned() })
}

epicserver_coordinator::conformance!(mod conformance, subject());

/// The subject, or nothing after it was said that the machine lacks it.
fn subject_for(test: &str) -> Option<OfMember> {
    or_skip(subject(), test)
}

#[test]
fn et2_a_leader_that_was_frozen_renews_nothing_that_ends_early() {
    const TTL: Duration = Duration::from_secs(3);
    let Some(members) = or_skip(Member::start_three(), "a cluster of three") else { return };
    let options = |member: &Member| Options {
        endpoints: vec![member.through_proxy()],
        tls: None,
        user: None,
        prefix: String::new(),
        fabric: "fabric".to_owned(),
    };
    let mut number = 0;
    for node in (1..=2).map(NodeId::new) {
        let leader = until("a leader", || members.iter().find(|member| member.leader().1));
        let follower = members.iter().find(|member| !member.leader().1).expect("two follow");
        let (mut one, mut other) =
            (Client::open(&Of(options(leader))), Client::open(&Of(options(follower))));
        until("a lease", || is_renewed(&one.renew(node, b"", TTL)).then_some(()));
        let (old, _) = leader.leader();
        leader.with_server(|server| server.freeze(true));
        until("another leader", || {
            let (now, _) = follower.leader();
            (now != "0" && now != old).then_some(())
        });
        // Most of what the new leader lets the lease last has passed when the old one is asked to renew it.
        let alive = format!("fabric/alive/{node}");
        until("the last second", || (follower.seconds_left(&alive) <= 1).then_some(()));
        let asked = Instant::now();
        let renew = Ask::Renew { node, record: Vec::new(), ttl: TTL };
        assert_eq!(one.handle().ask(AskId(0), renew), Ok(()));
        leader.with_server(|server| server.freeze(false));
        let mut done = Vec::new();
        let (_, answer) = until("an answer", || {
            one.pause();
            one.handle().poll(&mut done);
            done.pop()
        });
        until("the end of the lease", || {
            let change = other.change(number, b"view", &[node]);
            if let Answer::Overtaken { number: there } | Answer::Changed { number: there } = change
            {
                number = there;
            }
            matches!(change, Answer::Changed { .. }).then_some(())
        });
        let lasted = asked.elapsed() >= TTL - TTL / 100;
        assert!(lasted || !is_renewed(&answer), "ET2: a lease that was renewed was ended early");
    }
}

#[test]
fn et2_a_renewal_counts_only_between_two_answers_of_one_member_and_term() {
    // Who renewed, and who answered the transaction after it, as member and term.
    let script = [((1, 2), (1, 3)), ((2, 2), (1, 3)), ((1, 3), (1, 4)), ((1, 4), (1, 4))];
    let fake =
        Fake::start(script.into_iter().flat_map(|(renewed, done)| [renewed, done]).collect());
    let options = Options {
        endpoints: vec![format!("http://{}", fake.address())],
        tls: None,
        user: None,
        prefix: String::new(),
        fabric: "fabric".to_owned(),
    };
    let mut client = Client::open(&Of(options));
    let node = NodeId::new(1);
    assert!(is_renewed(&client.renew(node, b"", LONG)));
    assert_eq!(fake.renewals(), 0, "a lease that was just granted needs no renewal");
    assert!(is_renewed(&client.renew(node, b"", LONG)));
    assert_eq!(fake.renewals(), 4, "only the last one is proven");
    // From then on each is.
    assert!(is_renewed(&client.renew(node, b"", LONG)));
    assert_eq!(fake.renewals(), 5);
}

#[test]
fn fabrics_of_one_cluster_know_nothing_of_each_other() {
    let Some(subject) = subject_for("two fabrics") else { return };
    let other = OfMember { member: subject.member.clone(), fabric: "fabric2".to_owned() };
    let (mut one, mut other) = (Client::open(&subject), Client::open(&other));
    assert_eq!(one.change(0, b"view", &[NodeId::new(2)]), Answer::Changed { number: 1 });
    assert_eq!(other.read(), (None, Vec::new()));
    assert!(is_renewed(&other.renew(NodeId::new(2), b"", LONG)));
    assert_eq!(one.read(), (Some((1, b"view".to_vec())), Vec::new()));
}

#[test]
fn what_a_change_leaves_behind_is_removed_by_the_next_ones() {
    let Some(subject) = subject_for("what is left behind") else { return };
    let mut client = Client::open(&subject);
    let long = vec![7; 3 << 20];
    // One that never came to its end, of somebody who has died.
    subject.member.put(&subject.key("view/0000000000000001-00000000000000aa/00000000"), b"left");
    let node = NodeId::new(1);
    assert_eq!(client.renew(node, b"", Duration::from_secs(1)), Answer::Renewed { number: 0 });
    client.wait_out(node);
    for from in 0..3 {
        let ends = if from == 1 { &[node][..] } else { &[] };
        assert_eq!(client.change(from, &long, ends), Answer::Changed { number: from + 1 });
        assert_eq!(client.change(from, b"late", &[]), Answer::Overtaken { number: from + 1 });
    }
    client.read();
    let keys = subject.member.keys(&subject.key(""));
    let left: Vec<&str> =
        keys.iter().filter_map(|key| key.rsplit_once("fabric/")).map(|(_, key)| key).collect();
    let views = left.iter().filter(|key| key.starts_with("view/0000000000000003-")).count();
    assert_eq!(views, 3, "{left:?}");
    assert_eq!(left.len(), 3 + 2, "the number and who has ended are all else: {left:?}");
}

#[test]
fn one_of_several_endpoints_is_enough() {
    let Some(subject) = subject_for("several endpoints") else { return };
    let nobody = || format!("http://{}", server::free_address());
    let mut options = subject.options();
    options.endpoints = vec![nobody(), options.endpoints[0].clone(), nobody()];
    for _ in 0..4 {
        assert_eq!(Client::open(&Of(options.clone())).read(), (None, Vec::new()));
    }
}

#[test]
fn a_user_is_asked_for_where_the_cluster_wants_one() {
    let Some(subject) = subject_for("users") else { return };
    let member = &subject.member;
    for (path, body) in [
        ("auth/role/add", json!({ "name": "root" })),
        ("auth/user/add", json!({ "name": "root", "password": "secret" })),
        ("auth/user/grant", json!({ "user": "root", "role": "root" })),
        ("auth/role/add", json!({ "name": "node" })),
        (
            "auth/role/grant",
            json!({ "name": "node", "perm": { "permType": "READWRITE",
            "key": encode("/epicserver/"), "range_end": encode("/epicserver0") } }),
        ),
        ("auth/user/add", json!({ "name": "node", "password": "geheim" })),
        ("auth/user/grant", json!({ "user": "node", "role": "node" })),
        ("auth/enable", json!({})),
    ] {
        let said = member.post(&format!("/v3/{path}"), &body);
        assert!(said.get("error").is_none(), "{path}: {said}");
    }
    let with = |name: &str, password: &str| {
        let user = User { name: name.to_owned(), password: password.to_owned() };
        Of(Options { user: Some(user), ..subject.options() })
    };
    let mut client = Client::open(&with("node", "geheim"));
    let node = NodeId::new(1);
    assert!(is_renewed(&client.renew(node, b"", LONG)));
    assert!(is_renewed(&client.renew(node, b"", LONG)));
    assert_eq!(client.change(0, b"view", &[NodeId::new(2)]), Answer::Changed { number: 1 });
    // The member forgets its tokens.
    subject.restart();
    let renewed = until("a renewal", || {
        let answer = client.renew(node, b"", LONG);
        (!matches!(answer, Answer::Failed { .. })).then_some(answer)
    });
    assert!(is_renewed(&renewed));
    assert_eq!(client.release(node), Answer::Released);

    let nobody = Client::open(&Of(subject.options())).ask(Ask::Read);
    assert!(matches!(&nobody, Answer::Failed { why } if why.contains("user")), "{nobody:?}");
    let wrong = Client::open(&with("node", "guess")).ask(Ask::Read);
    let Answer::Failed { why } = wrong else { panic!("a wrong password, and it says {wrong:?}") };
    assert!(why.contains("password") && !why.contains("guess"), "{why}");
}

#[test]
fn a_member_is_reached_by_tls_and_only_if_the_authority_has_signed_for_it() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let (cert, key) = (ours.folder().join("server.pem"), ours.folder().join("server.key"));
    ours.sign_for("127.0.0.1", &cert, &key);
    let file = |path: &std::path::Path| path.display().to_string();
    let arguments = ["--cert-file".to_owned(), file(&cert), "--key-file".to_owned(), file(&key)];
    let member = Member::start_with(&arguments);
    let Some(member) = or_skip(member, "a member with TLS") else { return };
    let subject = OfMember { member, fabric: "fabric".to_owned() };
    let options = |authority: &Authority| {
        let mut options = Options { tls: Some(authority.files()), ..subject.options() };
        options.endpoints[0] = options.endpoints[0].replace("http:", "https:");
        options
    };
    let mut client = Client::open(&Of(options(&ours)));
    assert_eq!(client.change(0, b"view", &[]), Answer::Changed { number: 1 });
    let untrusted = Client::open(&Of(options(&other))).ask(Ask::Read);
    let Answer::Failed { why } = untrusted else {
        panic!("no authority, and it says {untrusted:?}")
    };
    assert!(why.contains("certificate"), "{why}");
    let mut named = options(&ours);
    named.endpoints[0] = named.endpoints[0].replace("127.0.0.1", "localhost");
    let misnamed = Client::open(&Of(named)).ask(Ask::Read);
    let Answer::Failed { why } = misnamed else { panic!("another name, and it says {misnamed:?}") };
    assert!(why.contains("not valid for name"), "{why}");
}

#[test]
fn a_member_that_cannot_be_reached_is_named() {
    let nobody = server::free_address();
    let options = Options {
        endpoints: vec![format!("http://{nobody}")],
        tls: None,
        user: Some(User { name: "node".to_owned(), password: "secret".to_owned() }),
        prefix: String::new(),
        fabric: "fabric".to_owned(),
    };
    assert!(!format!("{options:?} {:?}", options.user).contains("secret"));
    let answer = Client::open(&Of(options)).ask(Ask::Read);
    let Answer::Failed { why } = answer else { panic!("nobody is there, and it says {answer:?}") };
    assert!(why.contains(&nobody.to_string()) && why.contains("refused"), "{why}");
}

#[test]
fn something_else_that_answers_is_not_taken_for_etcd() {
    let fake = Fake::start(Vec::new());
    fake.say("<html>hello</html>");
    let mut options = Options {
        endpoints: vec![format!("http://{}", fake.address())],
        tls: None,
        user: None,
        prefix: String::new(),
        fabric: "fabric".to_owned(),
    };
    let why = |options: &Options| {
        let answer = Client::open(&Of(options.clone())).ask(Ask::Read);
        let Answer::Failed { why } = answer else { panic!("no etcd, and it says {answer:?}") };
        why
    };
    assert!(why(&options).contains("no JSON"));
    fake.say("{}");
    assert!(why(&options).contains("does not speak as etcd"));
    fake.say("{\"header\":{\"member_id\":\"1\",\"raft_term\":\"1\"},\"responses\":[1,2,3]}");
    assert!(why(&options).contains("does not speak as etcd"));
    options.endpoints.clear();
    assert!(open(&options, Wake::new(|| ())).is_err());
}

#[test]
fn options_that_cannot_be_are_refused() {
    let refused = |endpoint: &str, fabric: &str| {
        let options = Options {
            endpoints: vec![endpoint.to_owned()],
            tls: None,
            user: None,
            prefix: String::new(),
            fabric: fabric.to_owned(),
        };
        open(&options, Wake::new(|| ())).expect_err("it cannot be").to_string()
    };
    assert!(refused("http://a:1", "a/b").contains("without /"));
    assert!(refused("a:1", "fabric").contains("no endpoint"));
    assert!(refused("https://a:1", "fabric").contains("certificates"));
}

fn is_renewed(answer: &Answer) -> bool {
    matches!(answer, Answer::Renewed { .. })
}

/// Tries until something comes of it.
fn until<T>(what: &str, mut come: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(came) = come() {
            return came;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{what} never comes");
    }
}
