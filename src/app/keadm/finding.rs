//! What one check found, in one line.

use std::fmt;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Fail,
    /// It could not be checked, or there is nothing to check.
    Skip,
}

/// See the module. `Display` is its line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at, in a word or two.
    pub check: &'static str,
    pub verdict: Verdict,
    pub text: String,
    /// What to do about it; empty unless it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl Finding {
    pub fn ok(check: &'static str, text: impl fmt::Display) -> Self {
        Self { check, verdict: Verdict::Ok, text: one_line(text), fix: String::new() }
    }

    pub fn skip(check: &'static str, text: impl fmt::Display) -> Self {
        Self { check, verdict: Verdict::Skip, text: one_line(text), fix: String::new() }
    }

    pub fn fail(check: &'static str, text: impl fmt::Display, fix: impl fmt::Display) -> Self {
        Self { check, verdict: Verdict::Fail, text: one_line(text), fix: one_line(fix) }
    }

    pub fn failed(&self) -> bool {
        self.verdict == Verdict::Fail
    }
}

fn one_line(text: impl fmt::Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Fail => "FAIL",
            Verdict::Skip => "skip",
        };
        write!(f, "{word}  {}: {}", self.check, self.text)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; fix: {}", self.fix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each() {
        for (finding, want) in [
            (Finding::ok("disk", "12 GiB free"), "ok    disk: 12 GiB free"),
            (Finding::skip("node", "no\ncloud "), "skip  node: no cloud"),
            (Finding::fail("ports", "taken", "stop it"), "FAIL  ports: taken; fix: stop it"),
        ] {
            assert_eq!(finding.to_string(), want);
        }
    }
}
