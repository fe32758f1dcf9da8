//! "Did you mean": the known word nearest to an unknown one.

/// Nobody meant a longer word.
const MAX_LETTERS: usize = 64;

/// The nearest candidate, if it is near enough to be meant: equal but for case, or at most a third
/// of its letters (and three) changed, added, left out or in each other's place.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let letters = lower.chars().count();
    if letters > MAX_LETTERS {
        return None;
    }
    let limit = (letters / 3).min(3);
    candidates
        .map(|candidate| (strsim::osa_distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant() {
        let known = ["nodeLimit", "keepaliveInterval", "tlsCAFile", "port"];
        let long = "port".repeat(100_000);
        for (word, want) in [
            ("nodeLimits", Some("nodeLimit")),
            ("NODELIMIT", Some("nodeLimit")),
            ("tlsCaFile", Some("tlsCAFile")),
            ("keepAliveIntervall", Some("keepaliveInterval")),
            ("post", Some("port")),
            ("prot", Some("port")),
            ("ndoeLimit", Some("nodeLimit")),
            ("x", None),
            ("something", None),
            (&long, None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), want, "{word:.20}");
        }
    }
}
