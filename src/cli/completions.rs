//! `leveret completions`: scripts with which a shell completes commands and options.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap_complete::Shell;

use super::failure::Failure;

/// Prints the script for a shell. Exits with 74 if standard output can't be written.
pub fn completions(shell: Shell, command: &mut clap::Command) -> ExitCode {
    // clap's own writer panics on a full disk; memory is never full.
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "leveret", &mut script);
    match print(&script, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn print(script: &[u8], out: &mut impl Write) -> Result<(), Failure> {
    out.write_all(script)?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_full_disk_and_a_closed_pipe_are_no_panic() {
        let mut full = OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        assert_eq!(print(b"script", &mut full).unwrap_err().exit_code(), 74);
        let (reader, mut writer) = io::pipe().expect("a pipe");
        drop(reader);
        assert_eq!(print(b"script", &mut writer), Err(Failure::Closed));
    }
}
