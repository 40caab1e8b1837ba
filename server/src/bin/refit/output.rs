//! What a command prints: a table for people, or JSON for programs, from the same value.

use std::io::{self, Write as _};

use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;

/// How data is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// The option that every command with data has.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Output {
    /// How to print.
    #[arg(long = "output", value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: Format,
}

impl Output {
    /// Prints the value as JSON, or as the lines that `table` makes of it.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Table => table(value),
            Format::Json => serde_json::to_string_pretty(value)?,
        };
        line(&text)
    }
}

/// Writes a text and a line break to standard output. A reader that has gone away (`| head`) is no
/// failure of ours.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A table with these headings and rows; an empty cell is shown as `-`.
pub(crate) fn table<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(headings.map(str::to_uppercase));
    for row in rows {
        table.add_row(row.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A moment for a table: to the second, which is as much as anybody reads. What is no moment stays as
/// it is.
pub(crate) fn moment(text: &str) -> String {
    let rounded = text.parse::<jiff::Timestamp>().ok().and_then(|at| {
        // Down, not to the nearest: nothing has happened in the future.
        jiff::Timestamp::from_second(at.as_millisecond().div_euclid(1000)).ok()
    });
    rounded.map_or_else(|| text.to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_moments_to_the_second() {
        assert_eq!(moment("2030-01-01T00:00:00.987654321Z"), "2030-01-01T00:00:00Z");
        assert_eq!(moment("2030-01-01T00:00:00Z"), "2030-01-01T00:00:00Z");
        assert_eq!((moment(""), moment("never")), (String::new(), "never".to_owned()));
    }

    #[test]
    fn a_table_has_one_line_a_row_and_shows_what_is_empty() {
        let text = table(
            ["ring", "current"],
            [["pilot".into(), "2.4.1".into()], ["early".into(), String::new()]],
        );
        assert_eq!(text, "RING   CURRENT\npilot  2.4.1\nearly  -\n");
    }
}
