//! What is printed, and how: data to stdout as a table, JSON or YAML; messages to stderr.
use crate::client::Result;
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use cleave_api::{API_VERSION, ErrorBody, ErrorCode};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// How data is printed: for people, for programs, for people who configure programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

/// When to colour. `Auto` is on a terminal, unless `NO_COLOR` is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

const HEADER: Style = Style::new().bold();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// One thing, with the name of its schema.
#[derive(Serialize)]
pub(crate) struct Named<'a, T> {
    schema: String,
    #[serde(flatten)]
    value: &'a T,
}

impl<'a, T: Serialize> Named<'a, T> {
    pub(crate) fn new(of: &str, value: &'a T) -> Self {
        Self { schema: format!("cleave.dev/{API_VERSION}/{of}"), value }
    }
}

/// Prints `value` as `format` says; `table` makes the text for people.
pub(crate) fn print<T: Serialize>(format: Format, value: &T, table: impl FnOnce() -> String) -> Result<()> {
    let unwritable = |why: String| ErrorBody::new(ErrorCode::Internal, format!("can't write the output: {why}"), "");
    let text = match format {
        Format::Table => table(),
        Format::Json => serde_json::to_string_pretty(value).map_err(|e| unwritable(e.to_string()))?,
        Format::Yaml => serde_saphyr::to_string(value).map_err(|e| unwritable(e.to_string()))?,
    };
    line(text.trim_end_matches('\n'))
}

/// A line to stdout. A reader that has gone away (`| head`) ends the program without a word, as it does any other.
pub(crate) fn line(text: &str) -> Result<()> {
    match writeln!(anstream::stdout().lock(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(ErrorBody::new(
            ErrorCode::Unavailable,
            format!("can't write to stdout: {error}"),
            "is there room where it goes?",
        )),
        Ok(()) => Ok(()),
    }
}

/// Whether what is shown can be drawn over.
pub(crate) fn redraws() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// Characters that fit in a line of the terminal.
pub(crate) fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(80)
}

/// Moves the cursor as `control` says and draws `text`. Who wants no colour still wants it drawn in its place.
pub(crate) fn draw(control: &str, text: &str) {
    let plain = anstream::stdout().current_choice() == anstream::ColorChoice::Never;
    let text = if plain { anstream::adapter::strip_str(text).to_string() } else { text.to_owned() };
    // What is left of a longer line is cleared as each is written: no flicker.
    let text = text.replace('\n', "\x1b[K\n");
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "{control}{text}\x1b[K\n\x1b[J");
    let _ = out.flush();
}

/// The error, and what to do about it, to stderr.
pub(crate) fn error(error: &ErrorBody) {
    anstream::eprintln!("{BAD}error{BAD:#}: {}", error.message);
    if let Some(hint) = &error.hint {
        anstream::eprintln!("{GOOD}hint{GOOD:#}: {hint}");
    }
}

/// A warning to stderr.
pub(crate) fn warning(text: &str) {
    anstream::eprintln!("{WARN}warning{WARN:#}: {text}");
}

/// A table without lines: `headers`, those that start with `>` aligned to the right.
pub(crate) fn table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headers.iter().map(|h| h.trim_start_matches('>')));
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if headers.get(index).is_some_and(|h| h.starts_with('>')) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    let mut lines = text.lines().map(str::trim_end);
    let mut out = format!("{HEADER}{}{HEADER:#}", lines.next().unwrap_or_default());
    for line in lines {
        out.push('\n');
        out.push_str(line);
    }
    out
}

/// `used` of `limit` as a bar `width` characters wide.
pub(crate) fn bar(used: u64, limit: u64, width: usize) -> String {
    let part = if limit == 0 { 0.0 } else { (used as f64 / limit as f64).min(1.0) };
    let mut full = (part * width as f64).round() as usize;
    if used > 0 {
        full = full.max(1);
    }
    // A bar that looks full is full.
    if used < limit && full == width && width > 1 {
        full = width - 1;
    }
    format!("[{}{}]", "#".repeat(full), ".".repeat(width - full))
}

/// `used` of `limit` in whole percent.
pub(crate) fn percent(used: u64, limit: u64) -> String {
    if limit == 0 { "-".into() } else { format!("{:.0}%", used as f64 * 100.0 / limit as f64) }
}

/// A value that may not be known.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |v| v.to_string())
}

/// 1234567 as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_full_only_at_the_limit() {
        assert_eq!(bar(0, 100, 10), "[..........]");
        assert_eq!(bar(1, 1000, 10), "[#.........]");
        assert_eq!(bar(999, 1000, 10), "[#########.]");
        assert_eq!(bar(1000, 1000, 10), "[##########]");
        assert_eq!(bar(5, 0, 4), "[#...]");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn tables_align_and_leave_nothing_at_line_ends() {
        let text = table(&["NAME", ">USED"], vec![vec!["a".into(), "1 GiB".into()], vec!["long".into(), "-".into()]]);
        let plain = anstream::adapter::strip_str(&text).to_string();
        insta::assert_snapshot!(plain, @r"
        NAME   USED
        a     1 GiB
        long      -
        ");
    }
}
