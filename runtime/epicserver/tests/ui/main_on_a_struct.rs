#[epicserver::main(entities(Player))]
struct Setup;

fn main() {}
