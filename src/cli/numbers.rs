//! Numbers formatted for people.

/// Formats `1,234,567`; below ten with one decimal, unless it is whole.
pub(super) fn count(number: f64) -> String {
    if number < 10.0 && number.fract() >= 0.05 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats bytes with a decimal unit, as in the README.
pub(super) fn bytes(number: f64) -> String {
    let mut number = number;
    for unit in ["B", "KB", "MB", "GB"] {
        if number < 999.95 {
            return if unit == "B" {
                format!("{number:.0} B")
            } else {
                format!("{number:.1} {unit}")
            };
        }
        number /= 1000.0;
    }
    format!("{number:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let counts = [0.0, 0.04, 0.5, 9.96, 12.3, 999.0, 1000.0, 1_234_567.0].map(count);
        assert_eq!(counts, ["0", "0", "0.5", "10.0", "12", "999", "1,000", "1,234,567"]);
        let sizes = [0.0, 999.0, 1000.0, 999_960.0, 3.25e9, 5e12, 7e15].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 KB", "1.0 MB", "3.2 GB", "5.0 TB", "7000.0 TB"]);
    }
}
