//! The layout of the handshake, byte for byte: a change here is a change of the wire.

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn full() -> Config {
    let schema = Schema { method: MethodId::from_u32(0x0a0b_0c0d), hash: 0x0102_0304_0506_0708 };
    let offer = Offer {
        slot_bytes: 0x0001_0000,
        features: 3,
        host: Some(HostId([0xcc; 16])),
        schemas: Schemas::of([schema]),
    };
    Config { offer, ..config(0x1122, 7) }
}

#[test]
fn l4_the_layout_of_a_hello_is_as_promised() {
    let [(_, hello), _] = greet(full(), config(2, 7));
    let fields = [
        "01",
        "45504943",
        "01000100",
        "010008002211000000000000",
        "0200040074657374",
        "030020002222222222222222222222222222222222222222222222222222222222222222",
        "040002000200",
        "0500040000040080",
        "0600040000000100",
        "070008000300000000000000",
        "08001000cccccccccccccccccccccccccccccccc",
        "09002c00",
        "d539ff1fe9ad0bd79888be4dd4d2ca5673d051913ce8474cc95c9cc9457365f9",
        "0d0c0b0a0807060504030201",
    ];
    assert_eq!(hex(&hello[0].1), fields.concat());
}

#[test]
fn l2_the_proofs_of_both_ends_are_as_promised() {
    // Made by another implementation of HMAC, from the description in the module's header.
    let [(mut a, hello_a), (mut b, hello_b)] = greet(full(), config(2, 7));
    let proofs =
        [hear(&mut a, &hello_b), hear(&mut b, &hello_a)].map(|heard| hex(&said(&heard)[0].1));
    assert_eq!(
        proofs,
        [
            "024e726f0b088816b200b470b2e58a2813d0c7e72587bb493549d466ab122b4743",
            "0235182a26cd1351bcd07cdd93b59e08171ece47ddc88896c5095197026d669e80",
        ]
    );
}

#[test]
fn the_numbers_of_refusals_are_as_promised() {
    assert_eq!(Refusal::ALL.map(|refusal| refusal as u8), [1, 2, 3, 4, 5, 6]);
}
