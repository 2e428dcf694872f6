//! What is said to people: tidy lines, colour only on a terminal, questions only
//! where somebody can answer.
//!
//! A reader that goes away (`linnet check | head -1`) is not an error here.

use std::{
    fmt::Display,
    io::{self, BufRead, IsTerminal, Write},
};

/// Where the program's words go.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// Somebody can be asked.
    interactive: bool,
    /// Standard output understands colours, and they are wanted.
    colour: bool,
}

/// A question that nobody can answer.
#[derive(Debug, thiserror::Error)]
#[error("there is no terminal to ask for confirmation; pass -y to confirm beforehand")]
pub(crate) struct NotInteractive;

impl Terminal {
    /// What this process is connected to.
    pub(crate) fn detect() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            interactive: io::stdin().is_terminal() && io::stderr().is_terminal(),
            colour: io::stdout().is_terminal() && !plain,
        }
    }

    #[cfg(test)]
    pub(crate) const fn silent() -> Self {
        Self {
            interactive: false,
            colour: false,
        }
    }

    /// A line.
    pub(crate) fn line(&self, text: impl Display) {
        drop(writeln!(io::stdout(), "{text}"));
    }

    /// Something that is as it should be.
    pub(crate) fn good(&self, text: impl Display) {
        self.line(format_args!("{} {text}", self.paint("32", "✔")));
    }

    /// Something to look at.
    pub(crate) fn warning(&self, text: impl Display) {
        self.line(format_args!("{} {text}", self.paint("33", "!")));
    }

    /// Something that is not as it should be.
    pub(crate) fn bad(&self, text: impl Display) {
        self.line(format_args!("{} {text}", self.paint("31", "✘")));
    }

    /// A line beside the output, not of it.
    pub(crate) fn note(&self, text: impl Display) {
        drop(writeln!(io::stderr(), "{text}"));
    }

    /// Why the program gives up.
    pub(crate) fn error(&self, text: &str) {
        drop(writeln!(io::stderr(), "error: {text}"));
    }

    /// Writes a document to standard output.
    ///
    /// # Errors
    /// The output can't be written, other than for want of a reader.
    pub(crate) fn document(&self, text: &str) -> io::Result<()> {
        let mut output = io::stdout().lock();
        match output
            .write_all(text.as_bytes())
            .and_then(|()| output.flush())
        {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    /// Asks; only `y` or `yes` is yes.
    ///
    /// # Errors
    /// Nobody is there to answer.
    pub(crate) fn confirm(&self, question: &str) -> Result<bool, NotInteractive> {
        if !self.interactive {
            return Err(NotInteractive);
        }
        let mut prompt = io::stderr();
        drop(write!(prompt, "{question} [y/N] ").and_then(|()| prompt.flush()));
        let mut answer = String::new();
        io::stdin()
            .lock()
            .read_line(&mut answer)
            .map_err(|_| NotInteractive)?;
        let answer = answer.trim().to_ascii_lowercase();
        Ok(answer == "y" || answer == "yes")
    }

    /// Text in a colour, where it is wanted; `code` is of ECMA-48's SGR.
    pub(crate) fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_can_answer_confirmation_is_an_error_with_advice() {
        let error = Terminal::silent().confirm("Install?").unwrap_err();
        assert!(error.to_string().contains("-y"));
    }

    #[test]
    fn colour_is_only_for_terminals() {
        let colourful = Terminal {
            interactive: false,
            colour: true,
        };
        assert_eq!(Terminal::silent().paint("32", "x"), "x");
        assert_eq!(colourful.paint("32", "x"), "\u{1b}[32mx\u{1b}[0m");
    }
}
