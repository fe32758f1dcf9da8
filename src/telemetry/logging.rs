//! Logs: `tracing` to standard error, text or JSON, one line an event.

use std::io::IsTerminal;

use metrics::{counter, describe_counter};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LoggingConfig};

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("commonConfig.logging.level {level:?} is no log filter")]
    Level { level: String, source: tracing_subscriber::filter::ParseError },
    #[error("logging is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the process. Call once, from the binary.
///
/// # Errors
/// [`LoggingError`] for a level that is no filter, or a second call.
pub fn init(config: &LoggingConfig) -> Result<(), LoggingError> {
    let colors = std::io::stderr().is_terminal();
    subscriber(config, colors, std::io::stderr)?.try_init().map_err(LoggingError::Twice)
}

type BoxSubscriber = Box<dyn Subscriber + Send + Sync>;

fn subscriber<W>(config: &LoggingConfig, colors: bool, writer: W) -> Result<BoxSubscriber, LoggingError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = &config.level;
    let mut filter: Targets =
        level.parse().map_err(|source| LoggingError::Level { level: level.clone(), source })?;
    for noisy in NOISY {
        if !level.contains(noisy) {
            filter = filter.with_target(*noisy, LevelFilter::WARN);
        }
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let registry = tracing_subscriber::registry().with(filter).with(Counting);
    Ok(match config.format {
        LogFormat::Text => Box::new(registry.with(lines.with_ansi(colors))),
        LogFormat::Json => Box::new(registry.with(lines.json().flatten_event(true).with_current_span(false))),
    })
}

const EVENTS: &str = "kubeedge_log_events_total";

/// Registers the counters of log lines. Events before the recorder is installed are not counted.
pub fn show_counts() {
    describe_counter!(EVENTS, "Lines of the log that warn or tell of an error, by level");
    for level in ["warn", "error"] {
        counter!(EVENTS, "level" => level).increment(0);
    }
}

/// Counts what an operator should look at. Events that the level hides are not counted.
struct Counting;

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level == Level::ERROR {
            counter!(EVENTS, "level" => "error").increment(1);
        } else if level == Level::WARN {
            counter!(EVENTS, "level" => "warn").increment(1);
        }
    }
}

/// Libraries whose everyday lines help nobody who runs this program. Naming one in the level
/// brings its lines back.
const NOISY: &[&str] = &["actix_server", "tungstenite", "tower", "hyper", "h2"];

/// An error and its causes on one line: a client's error may say that it could not connect, and only its cause why.
#[must_use]
pub fn with_causes(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::telemetry::exporter::Exporter;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(piece);
            Ok(piece.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat, level: &str) -> String {
        let page = Page::default();
        let writer = page.clone();
        let config = LoggingConfig { format, level: level.into() };
        let subscriber = subscriber(&config, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("hidden");
            tracing::info!(node = "edge\n1", attempt = 2, "connected");
        });
        let bytes = page.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn one_line_an_event_in_both_formats() {
        let text = written(LogFormat::Text, "info");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(r#"connected node="edge\n1" attempt=2"#), "{text}");
        let json = written(LogFormat::Json, "info");
        let event: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (json.lines().count(), &event["message"], &event["node"]),
            (1, &"connected".into(), &"edge\n1".into())
        );
    }

    #[test]
    fn warnings_and_errors_are_counted_where_they_are_shown() {
        let ((), exporter) = Exporter::record(|| {
            show_counts();
            let config = LoggingConfig { format: LogFormat::Text, level: "error".into() };
            let subscriber = subscriber(&config, false, io::sink).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                tracing::error!(level = "odd", "seen");
                tracing::warn!("hidden");
            });
        });
        let text = exporter.render();
        for line in
            [r#"kubeedge_log_events_total{level="error"} 1"#, r#"kubeedge_log_events_total{level="warn"} 0"#]
        {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn the_level_may_be_a_filter() {
        assert_eq!(written(LogFormat::Text, "warn,kubeedge::telemetry=debug").lines().count(), 2);
        assert_eq!(written(LogFormat::Text, "error"), "");
        let config = LoggingConfig { level: "info,=x=".into(), ..LoggingConfig::default() };
        let err = subscriber(&config, false, io::sink).err().unwrap();
        assert_eq!(err.to_string(), r#"commonConfig.logging.level "info,=x=" is no log filter"#);
    }
}
