//! A snapshot of a server's `/metrics`.

use super::dial::fetch;

/// The series with their values, in the order of the answer.
pub(super) struct Scrape(Vec<(String, f64)>);

/// Scrapes the server whose admin listener is at `HOST:PORT`.
///
/// # Errors
/// A sentence that names the address.
pub(super) fn scrape(address: &str) -> Result<Scrape, String> {
    let shown = address.escape_debug();
    let text =
        fetch(address, "/metrics").map_err(|why| format!("http://{shown}/metrics: {why}"))?;
    let scrape = Scrape::parse(&text);
    match scrape.one("oneloop_clients") {
        Some(_) => Ok(scrape),
        None => Err(format!("http://{shown}/metrics: not the admin listener of a oneloop")),
    }
}

impl Scrape {
    /// Keeps the lines with a series and a number, and skips heads and comments.
    pub(super) fn parse(text: &str) -> Scrape {
        let samples = text.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            let value: f64 = value.parse().ok()?;
            (!name.starts_with('#') && value.is_finite()).then(|| (name.to_owned(), value))
        });
        Scrape(samples.collect())
    }

    /// The value of one series, named with its labels.
    pub(super) fn one(&self, series: &str) -> Option<f64> {
        self.0.iter().find(|(name, _)| name == series).map(|(_, value)| *value)
    }

    /// The sum over all labels of a name, or the value of a series named with its labels; 0 if there is none.
    pub(super) fn sum(&self, name: &str) -> f64 {
        let is_meant = |series: &str| {
            let rest = series.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        let found = self.0.iter().filter(|(series, _)| is_meant(series));
        // `sum` of nothing is -0.0, which would be shown with its sign.
        found.fold(0.0, |sum, (_, value)| sum + value)
    }

    /// The values that the one label of a name has.
    pub(super) fn labels(&self, name: &str, label: &str) -> impl Iterator<Item = &str> {
        let prefix = format!("{name}{{{label}=\"");
        let series = self.0.iter().map(|(series, _)| series);
        series.filter_map(move |series| series.strip_prefix(&prefix)?.strip_suffix("\"}"))
    }

    /// The upper bound of the bucket that holds the quantile `of` the values counted since `before`; `None` if there are none.
    /// `label`: nothing, or a label with its value and a comma, of a histogram that has one.
    pub(super) fn quantile_since(
        &self,
        before: &Scrape,
        name: &str,
        label: &str,
        of: f64,
    ) -> Option<f64> {
        let prefix = format!("{name}_bucket{{{label}le=\"");
        let buckets = self.0.iter().filter_map(|(series, below)| {
            let bound = series.strip_prefix(&prefix)?.strip_suffix("\"}")?;
            let since = below - before.one(series).unwrap_or(0.0);
            Some((bound.parse::<f64>().ok()?, since))
        });
        let buckets: Vec<(f64, f64)> = buckets.collect();
        let (_, all) = buckets.last().filter(|(_, all)| *all > 0.0)?;
        let bound = buckets.iter().find(|(_, below)| *below >= all * of);
        bound.map(|(bound, _)| *bound).filter(|bound| bound.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_with_and_without_labels() {
        let look = Scrape::parse(
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n# HELP a An a.\n# TYPE a counter\n\
             a{x=\"1\"} 2\na{x=\"2\"} 3\nab 4\nbroken\nnan NaN\n",
        );
        assert_eq!((look.sum("a"), look.one("a{x=\"2\"}"), look.one("a")), (5.0, Some(3.0), None));
        assert_eq!((look.sum("a{x=\"1\"}"), look.sum("ab"), look.sum("none")), (2.0, 4.0, 0.0));
        assert_eq!(look.one("nan"), None);
    }

    #[test]
    fn a_quantile_is_of_what_came_since() {
        let buckets = |counts: [u64; 3]| {
            let bounds = ["0.001", "0.002", "+Inf"];
            let lines = bounds.iter().zip(counts);
            let lines = lines.map(|(bound, count)| format!("h_bucket{{le=\"{bound}\"}} {count}\n"));
            Scrape::parse(&lines.collect::<String>())
        };
        let (before, now) = (buckets([100, 100, 100]), buckets([100, 199, 200]));
        assert_eq!(now.quantile_since(&before, "h", "", 0.5), Some(0.002));
        assert_eq!(now.quantile_since(&before, "h", "", 1.0), None, "it is above all bounds");
        assert_eq!(before.quantile_since(&before, "h", "", 0.5), None);
    }
}
