//! A measured figure beside its reference.

use serde_json::json;

/// One figure of ours, the reference it was measured against in the same run, and the promise.
#[derive(Debug)]
pub(crate) struct Figure {
    /// What was measured, such as `run_true`.
    pub(crate) name: String,
    /// Unit of both values, such as `ms`.
    pub(crate) unit: &'static str,
    /// Ours: the median.
    pub(crate) ours: f64,
    /// The reference's median.
    pub(crate) reference: f64,
    /// Who the reference is.
    pub(crate) reference_name: String,
    /// The greatest ratio of ours to the reference that keeps the promise.
    pub(crate) goal: f64,
}

impl Figure {
    /// A figure in milliseconds.
    pub(crate) fn milliseconds(name: &str, ours: f64, (reference_name, reference): (&str, f64), goal: f64) -> Self {
        let (name, reference_name) = (name.to_owned(), reference_name.to_owned());
        Self { name, unit: "ms", ours, reference, reference_name, goal }
    }

    /// Ours divided by the reference.
    pub(crate) fn ratio(&self) -> f64 {
        self.ours / self.reference
    }

    fn ok(&self) -> bool {
        self.ratio() <= self.goal
    }

    /// One line for programs.
    pub(crate) fn json(&self) -> String {
        json!({
            "name": self.name,
            "unit": self.unit,
            "ours": round(self.ours),
            "reference": round(self.reference),
            "reference_name": self.reference_name,
            "ratio": round(self.ratio()),
            "goal": round(self.goal),
            "ok": self.ok(),
        })
        .to_string()
    }
}

fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// The figures as lines for people.
pub(crate) fn table(figures: &[Figure]) -> String {
    let row = |figure: &Figure| {
        format!(
            "{:<28} {:>10.2} {:<4} {:<22} {:>10.2} {:<4}  ratio {:>7.3}  goal <= {:<7.3} {}\n",
            figure.name,
            figure.ours,
            figure.unit,
            figure.reference_name,
            figure.reference,
            figure.unit,
            figure.ratio(),
            figure.goal,
            if figure.ok() { "kept" } else { "MISSED" },
        )
    };
    figures.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_kept_up_to_its_goal() {
        let mut figure = Figure {
            name: "a".to_owned(),
            unit: "ms",
            ours: 4.0,
            reference: 2.0,
            reference_name: "floor".to_owned(),
            goal: 2.0,
        };
        assert!(figure.json().contains("\"ok\":true"));
        figure.ours = 4.1;
        assert!(table(&[figure]).contains("MISSED"));
    }
}
