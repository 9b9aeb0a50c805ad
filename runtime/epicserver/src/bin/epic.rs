//! The program that looks after machines and nodes: `epic doctor`.

fn main() -> std::process::ExitCode {
    epicserver::__private::epic()
}
