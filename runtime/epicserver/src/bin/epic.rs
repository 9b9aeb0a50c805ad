//! The program that looks after machines and nodes: `epic doctor`, `epic store`.

fn main() -> std::process::ExitCode {
    epicserver::__private::epic()
}
