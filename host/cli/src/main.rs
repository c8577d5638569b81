//! The program `hotpick`.

fn main() -> std::process::ExitCode {
    hotpick_cli::main()
}
