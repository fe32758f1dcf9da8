//! Logs: `tracing` to standard error, text or JSON, one line an event.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
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
    let registry = tracing_subscriber::registry().with(filter);
    Ok(match config.format {
        LogFormat::Text => Box::new(registry.with(lines.with_ansi(colors))),
        LogFormat::Json => Box::new(registry.with(lines.json().flatten_event(true).with_current_span(false))),
    })
}

/// Libraries whose everyday lines help nobody who runs this program. Naming one in the level
/// brings its lines back.
const NOISY: &[&str] = &["actix_server", "tungstenite", "tower", "hyper", "h2"];

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

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
    fn the_level_may_be_a_filter() {
        assert_eq!(written(LogFormat::Text, "warn,kubeedge::telemetry=debug").lines().count(), 2);
        assert_eq!(written(LogFormat::Text, "error"), "");
        let config = LoggingConfig { level: "info,=x=".into(), ..LoggingConfig::default() };
        let err = subscriber(&config, false, io::sink).err().unwrap();
        assert_eq!(err.to_string(), r#"commonConfig.logging.level "info,=x=" is no log filter"#);
    }
}
