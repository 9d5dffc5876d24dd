//! Answers that go on: logs, events, readings.

use std::io::{self, IsTerminal, Write};

use insula_api::{ContainerSummary, Event, LogLine, LogStream, ResourceUsage, paths};
use insula_model::ContainerState;
use jiff::Timestamp;

use super::{Session, verb_path};
use crate::args::{EventsArgs, Format, LogsArgs, StatsArgs};
use crate::client::{ClientError, Framing, Records, encoded, with_query};
use crate::failure::Failure;
use crate::render::{Cell, Table, print, size, tell};
use crate::values::parse_duration;

/// `logs`
pub(super) async fn logs(session: &mut Session, args: LogsArgs) -> Result<u8, Failure> {
    let since = args.since.as_deref().map(|given| since(given, Timestamp::now())).transpose()?;
    let tail = args.tail.as_deref().map(tail).transpose()?.flatten();
    let query = [
        ("follow", args.follow.then(|| "true".to_owned())),
        ("since", since),
        ("tail", tail.map(|lines| lines.to_string())),
    ];
    let body = session.client.stream(&with_query(&verb_path(&args.name, "logs"), &query)).await?;
    let mut lines: Records<LogLine> = Records::new(body, Framing::JsonLines);
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    while let Some(line) = lines.next().await? {
        if let Some(lost) = line.lost_bytes {
            // Where standard error is gone, there is nobody to tell.
            let _ = writeln!(err, "insula: {lost} bytes were lost here: the container wrote too fast");
        }
        match (session.printer.format, line.stream) {
            (Format::Table, LogStream::Stdout) => write_line(&mut out, &line, args.timestamps)?,
            (Format::Table, LogStream::Stderr) => write_line(&mut err, &line, args.timestamps)?,
            _ => {
                let mut table = Table::new(["TIME", "STREAM", "TEXT"]);
                let stream = if line.stream == LogStream::Stdout { "stdout" } else { "stderr" };
                table.push([Cell::from(line.time.to_string()), Cell::from(stream), Cell::from(line.text.as_str())]);
                session.printer.record(&line, &table)?;
            }
        }
    }
    Ok(0)
}

fn write_line(out: &mut impl Write, line: &LogLine, timestamps: bool) -> Result<(), Failure> {
    let mut write = || {
        if timestamps {
            write!(out, "{} ", line.time)?;
        }
        out.write_all(line.text.as_bytes())?;
        out.flush()
    };
    write().map_err(Failure::Output)
}

/// A time, or a length of time before `now`, as RFC 3339.
fn since(given: &str, now: Timestamp) -> Result<String, Failure> {
    if let Ok(time) = given.parse::<Timestamp>() {
        return Ok(time.to_string());
    }
    let refused = || Failure::Argument {
        argument: "--since".to_owned(),
        reason: format!("`{}` is neither a time nor a length of time", given.escape_debug()),
        remedy: Some("write 10m, 2h or 2026-01-31T12:00:00Z".to_owned()),
    };
    let ago = parse_duration(given).map_err(|_| refused())?;
    now.checked_sub(ago).map(|time| time.to_string()).map_err(|_| refused())
}

/// A number of lines; `None` is all.
fn tail(given: &str) -> Result<Option<u64>, Failure> {
    match given {
        "all" => Ok(None),
        _ => given.parse().map(Some).map_err(|_| {
            Failure::argument("--tail", format!("`{}` is neither a number of lines nor `all`", given.escape_debug()))
        }),
    }
}

/// `events`
pub(super) async fn events(session: &mut Session, args: EventsArgs) -> Result<u8, Failure> {
    let body = session.client.stream(paths::EVENTS).await?;
    let mut events: Records<Event> = Records::new(body, Framing::ServerSentEvents);
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut expected = None;
    while left > 0
        && let Some(event) = events.next().await?
    {
        if expected.is_some_and(|expected| event.sequence > expected) {
            tell("insula: some events were missed: they came too fast");
        }
        expected = Some(event.sequence + 1);
        if !args.name.is_empty() && !args.name.iter().any(|name| is_about(&event, name)) {
            continue;
        }
        left -= 1;
        show_event(session, &event)?;
    }
    Ok(0)
}

/// Whether an event is about what the user calls `name`: a container, an image version, or all versions of an image.
fn is_about(event: &Event, name: &str) -> bool {
    event.name == name || event.name.split_once('@').is_some_and(|(image, _)| image == name)
}

fn show_event(session: &Session, event: &Event) -> Result<(), Failure> {
    let subject = serde_json::to_value(event.subject).ok().and_then(|value| value.as_str().map(str::to_owned));
    let attributes: Vec<String> = event.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut table = Table::new(["TIME", "SUBJECT", "NAME", "ACTION", "ATTRIBUTES"]);
    table.push([
        Cell::from(event.time.to_string()),
        Cell::from(subject.unwrap_or_default()),
        Cell::from(event.name.as_str()),
        Cell::from(event.action.as_str()),
        Cell::from(attributes.join(" ")),
    ]);
    session.printer.record(event, &table)
}

/// One reading of one container.
#[derive(Debug, serde::Serialize)]
struct Reading {
    name: String,
    time: Timestamp,
    #[serde(flatten)]
    usage: ResourceUsage,
}

/// `stats`
pub(super) async fn stats(session: &mut Session, args: StatsArgs) -> Result<u8, Failure> {
    let mut before: Vec<Reading> = Vec::new();
    if args.no_stream && session.printer.format != Format::Json {
        // Use of processors is what came between two readings.
        before = read_all(session, &args.names).await?;
        tokio::time::sleep(args.interval).await;
    }
    let mut first = true;
    loop {
        let readings = read_all(session, &args.names).await?;
        let table = readings_table(&readings, &before);
        if args.no_stream {
            session.printer.listing(&readings, &table)?;
            return Ok(0);
        }
        if session.printer.is_for_people() {
            print(before_readings(first))?;
            session.printer.listing(&readings, &table)?;
        } else {
            for (index, reading) in readings.iter().enumerate() {
                session.printer.record(reading, &readings_table(&readings[index..=index], &before))?;
            }
        }
        first = false;
        before = readings;
        tokio::time::sleep(args.interval).await;
    }
}

/// What comes before a table of readings: on a terminal it takes the place of the one before; elsewhere it stands a blank
/// line apart, so that it can be read like a log.
fn before_readings(first: bool) -> &'static str {
    match (std::io::stdout().is_terminal(), first) {
        (true, _) => "\x1b[H\x1b[2J",
        (false, true) => "",
        (false, false) => "\n",
    }
}

async fn read_all(session: &mut Session, names: &[String]) -> Result<Vec<Reading>, Failure> {
    let all = names.is_empty();
    let names = if all {
        let running = [("filter", Some("state=running".to_owned()))];
        let all: Vec<ContainerSummary> = session.client.get(&with_query(paths::CONTAINERS, &running)).await?;
        all.into_iter().filter(|item| item.state == ContainerState::Running).map(|item| item.name.to_string()).collect()
    } else {
        names.to_vec()
    };
    let mut readings = Vec::new();
    for name in names {
        match session.client.get(&paths::container_verb(&encoded(&name), "stats")).await {
            Ok(usage) => readings.push(Reading { name, time: Timestamp::now(), usage }),
            // It ended since it was listed.
            Err(ClientError::Refused(_)) if all => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(readings)
}

fn readings_table(readings: &[Reading], before: &[Reading]) -> Table {
    let mut table = Table::new(["NAME", "CPU", "MEMORY", "MEMORY LIMIT", "PIDS", "PIDS LIMIT"]);
    for reading in readings {
        let usage = &reading.usage;
        let earlier = before.iter().find(|earlier| earlier.name == reading.name);
        table.push([
            Cell::from(reading.name.as_str()),
            earlier.map_or_else(|| Cell::two("-", ""), |earlier| processors(earlier, reading)),
            Cell::two(size(usage.memory_bytes), usage.memory_bytes.to_string()),
            usage
                .memory_limit_bytes
                .map_or_else(|| Cell::two("-", ""), |bytes| Cell::two(size(bytes), bytes.to_string())),
            Cell::from(usage.pids.to_string()),
            Cell::optional(usage.pids_limit),
        ]);
    }
    table
}

/// Thousandths of a processor used between two readings, shown as percent of one.
fn processors(earlier: &Reading, now: &Reading) -> Cell {
    let used = u128::from(now.usage.cpu_usec.saturating_sub(earlier.usage.cpu_usec));
    let passed = u128::try_from(now.time.as_microsecond() - earlier.time.as_microsecond()).unwrap_or(0).max(1);
    let mille = used * 1_000 / passed;
    Cell::two(format!("{}.{} %", mille / 10, mille % 10), mille.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_a_length_of_time() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        assert_eq!(since("10m", now).unwrap(), "2026-01-31T11:50:00Z");
        assert_eq!(since("2026-01-31T13:00:00+02:00", now).unwrap(), "2026-01-31T11:00:00Z");
        assert_eq!(since("yesterday", now).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn events_of_an_image_are_those_of_all_its_versions() {
        let event = |name: &str| Event {
            sequence: 1,
            time: Timestamp::UNIX_EPOCH,
            subject: insula_api::EventSubject::Image,
            name: name.to_owned(),
            id: None,
            action: "published".to_owned(),
            attributes: std::collections::BTreeMap::new(),
        };
        for (name, asked, about) in [
            ("debian@12", "debian@12", true),
            ("debian@12", "debian", true),
            ("web", "web", true),
            ("debian@12", "debian@1", false),
            ("webserver", "web", false),
        ] {
            assert_eq!(is_about(&event(name), asked), about, "{name} {asked}");
        }
    }

    #[test]
    fn tail_is_a_number_or_all() {
        assert_eq!((tail("all").unwrap(), tail("5").unwrap()), (None, Some(5)));
        assert_eq!(tail("-1").unwrap_err().exit_code(), 2);
    }
}
