//! Templates: named sets of limits, each perhaps over another one, and what they make of a container.
//!
//! ```text
//! the container's own values > its template > that one's parent > … > the node's defaults
//! ```
//!
//! Every value is taken from the first that has it, field by field, and remembers from where it came.

use std::collections::BTreeMap;
use std::fmt;

use crate::{CheckSpecError, ResourceSpec, TemplateName, nearest};

/// One template.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template {
    /// The template that has what this one lacks.
    pub from: Option<TemplateName>,
    /// Its own values.
    pub resources: ResourceSpec,
}

/// All templates of a node; every parent exists, no template is its own ancestor, and each of them can stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Templates(BTreeMap<TemplateName, Template>);

/// Templates that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefineTemplateError {
    /// A parent that does not exist.
    #[error("template `{template}`")]
    Parent {
        /// Which template.
        template: TemplateName,
        /// Its parent.
        #[source]
        source: UnknownTemplateError,
    },
    /// A template is its own ancestor.
    #[error("template `{template}` is its own ancestor; end the circle of `from`")]
    Circle {
        /// One of the circle.
        template: TemplateName,
    },
    /// Its values contradict each other, or those of an ancestor.
    #[error("template `{template}`")]
    Contradiction {
        /// Which template.
        template: TemplateName,
        /// What cannot stand.
        #[source]
        source: CheckSpecError,
    },
}

/// There is no such template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template `{name}` is unknown; {}", suggestion(.nearest.as_ref()))]
pub struct UnknownTemplateError {
    /// What was asked for.
    pub name: TemplateName,
    /// The one that is spelt most alike.
    pub nearest: Option<TemplateName>,
}

fn suggestion(nearest: Option<&TemplateName>) -> String {
    nearest.map_or_else(|| "there are none".to_owned(), |nearest| format!("the nearest is `{nearest}`"))
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The container itself.
    Container,
    /// A template.
    Template(TemplateName),
    /// The node's defaults.
    Node,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container => f.pad("container"),
            Self::Template(name) => f.pad(&format!("template {name}")),
            Self::Node => f.pad("node"),
        }
    }
}

/// What holds for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Every value that somebody named.
    pub resources: ResourceSpec,
    /// By the key of each value's setting: where it came from.
    pub origins: BTreeMap<String, Origin>,
}

impl Templates {
    /// Checks a set of templates.
    ///
    /// # Errors
    ///
    /// The first template that cannot stand, and why.
    pub fn new(templates: BTreeMap<TemplateName, Template>) -> Result<Self, DefineTemplateError> {
        let templates = Self(templates);
        for (name, template) in &templates.0 {
            if let Some(parent) = &template.from {
                let wrong = |source| DefineTemplateError::Parent { template: name.clone(), source };
                templates.get(parent).map_err(wrong)?;
            }
        }
        for name in templates.0.keys() {
            // A line of ancestors that is longer than there are templates has one of them twice.
            if templates.line(Some(name)).count() > templates.0.len() {
                return Err(DefineTemplateError::Circle { template: name.clone() });
            }
            let wrong = |source| DefineTemplateError::Contradiction { template: name.clone(), source };
            let whole =
                templates.line(Some(name)).fold(ResourceSpec::default(), |sum, (_, next)| sum.over(&next.resources));
            whole.check().map_err(wrong)?;
        }
        Ok(templates)
    }

    /// Names, in order.
    pub fn names(&self) -> impl Iterator<Item = &TemplateName> {
        self.0.keys()
    }

    /// One template.
    ///
    /// # Errors
    ///
    /// There is none of that name; the nearest is named.
    pub fn get(&self, name: &TemplateName) -> Result<&Template, UnknownTemplateError> {
        self.0.get(name).ok_or_else(|| {
            let near = nearest(name.as_str(), self.0.keys().map(TemplateName::as_str));
            let nearest = near.and_then(|near| self.0.keys().find(|known| known.as_str() == near)).cloned();
            UnknownTemplateError { name: name.clone(), nearest }
        })
    }

    /// What holds for a container with `own` values that uses `template`, on a node with these `defaults`.
    ///
    /// Memory that a container or its template limits and does not guarantee is guaranteed up to the limit: who names
    /// an amount counts on it. The node's default guarantee is for those that name neither.
    ///
    /// # Errors
    ///
    /// There is no such template.
    pub fn resolve(
        &self,
        template: Option<&TemplateName>,
        own: &ResourceSpec,
        defaults: &ResourceSpec,
    ) -> Result<Resolved, UnknownTemplateError> {
        if let Some(template) = template {
            self.get(template)?;
        }
        let mut resources = own.clone();
        let mut origins: BTreeMap<String, Origin> = BTreeMap::new();
        let note = |origins: &mut BTreeMap<String, Origin>, layer: &ResourceSpec, origin: &Origin| {
            for (key, _) in layer.values() {
                origins.entry(key).or_insert_with(|| origin.clone());
            }
        };
        note(&mut origins, own, &Origin::Container);
        for (name, next) in self.line(template) {
            note(&mut origins, &next.resources, &Origin::Template(name.clone()));
            resources = resources.over(&next.resources);
        }
        if resources.memory_guarantee.is_none()
            && let Some(origin) = origins.get("memory.limit").cloned()
        {
            resources.memory_guarantee = resources.memory_limit;
            origins.insert("memory.guarantee".to_owned(), origin);
        }
        note(&mut origins, defaults, &Origin::Node);
        Ok(Resolved { resources: resources.over(defaults), origins })
    }

    /// A template and its ancestors; ends after one more than there are templates.
    fn line<'a>(&'a self, first: Option<&'a TemplateName>) -> impl Iterator<Item = (&'a TemplateName, &'a Template)> {
        let find = |name: &'a TemplateName| Some((name, self.0.get(name)?));
        std::iter::successors(first.and_then(find), move |(_, last)| last.from.as_ref().and_then(find))
            .take(self.0.len() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bytes;
    use proptest::prelude::*;

    fn name(text: &str) -> TemplateName {
        text.parse().unwrap()
    }

    fn limits(settings: &[(&str, &str)]) -> ResourceSpec {
        let mut resources = ResourceSpec::default();
        for (key, value) in settings {
            resources.apply(key, value).unwrap();
        }
        resources
    }

    /// Name, parent, settings.
    type Row<'a> = (&'a str, Option<&'a str>, &'a [(&'a str, &'a str)]);

    fn templates(given: &[Row<'_>]) -> Result<Templates, DefineTemplateError> {
        let template = |&(own, from, settings): &Row<'_>| {
            (name(own), Template { from: from.map(name), resources: limits(settings) })
        };
        Templates::new(given.iter().map(template).collect())
    }

    #[test]
    fn every_field_comes_from_the_first_that_has_it_and_says_so() {
        let templates = templates(&[
            ("plan", None, &[("memory.limit", "64MiB"), ("cpu.limit", "0.5"), ("ulimit.core", "0")]),
            ("web", Some("plan"), &[("memory.limit", "128MiB"), ("ulimit.stack", "8:9")]),
        ])
        .unwrap();
        let own = limits(&[("pids.limit", "9"), ("ulimit.core", "1:2")]);
        let defaults = limits(&[("pids.limit", "512"), ("memory.limit", "1GiB"), ("memory.guarantee", "2MiB")]);
        let resolved = templates.resolve(Some(&name("web")), &own, &defaults).unwrap();
        let said: Vec<String> = resolved
            .resources
            .values()
            .iter()
            .map(|(key, value)| format!("{key}={value} {}", resolved.origins[key]))
            .collect();
        let expected = [
            "cpu.limit=0.5 template plan",
            "memory.guarantee=128MiB template web",
            "memory.limit=128MiB template web",
            "pids.limit=9 container",
            "ulimit.core=1:2 container",
            "ulimit.stack=8:9 template web",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn without_template_the_nodes_defaults_hold() {
        let defaults = limits(&[("memory.limit", "1GiB"), ("memory.guarantee", "2MiB")]);
        let resolved = Templates::default().resolve(None, &ResourceSpec::default(), &defaults).unwrap();
        assert_eq!(resolved.resources, defaults);
        assert!(resolved.origins.values().all(|origin| *origin == Origin::Node));
        let own = limits(&[("memory.limit", "100MiB")]);
        let resolved = Templates::default().resolve(None, &own, &defaults).unwrap();
        assert_eq!(resolved.resources.memory_guarantee, Some(Bytes::mib(100)));
    }

    #[test]
    fn an_unknown_template_is_refused_with_the_nearest() {
        let known = templates(&[("small", None, &[]), ("large", None, &[])]).unwrap();
        let none = ResourceSpec::default();
        let error = known.resolve(Some(&name("smal")), &none, &none).unwrap_err();
        assert_eq!(error.to_string(), "template `smal` is unknown; the nearest is `small`");
        let error = Templates::default().resolve(Some(&name("x")), &none, &none).unwrap_err();
        assert_eq!(error.to_string(), "template `x` is unknown; there are none");
    }

    #[test]
    fn missing_parents_circles_and_contradictions_are_refused_by_name() {
        let error = templates(&[("a", Some("b"), &[])]).unwrap_err();
        assert!(matches!(error, DefineTemplateError::Parent { .. }), "{error}");
        for circle in [&[("a", Some("a"), &[][..])][..], &[("a", Some("b"), &[]), ("b", Some("a"), &[])]] {
            let error = templates(circle).unwrap_err();
            assert!(matches!(error, DefineTemplateError::Circle { .. }), "{error}");
        }
        let error = templates(&[
            ("low", None, &[("memory.limit", "64MiB")]),
            ("odd", Some("low"), &[("memory.guarantee", "65MiB")]),
        ])
        .unwrap_err();
        assert!(matches!(&error, DefineTemplateError::Contradiction { template, .. } if *template == name("odd")));
    }

    proptest! {
        #[test]
        fn any_parents_are_either_refused_or_resolved(parents in proptest::collection::vec(0usize..8, 1..8)) {
            let all: BTreeMap<TemplateName, Template> = parents.iter().enumerate().map(|(index, parent)| {
                let from = (*parent < parents.len()).then(|| name(&format!("t{parent}")));
                (name(&format!("t{index}")), Template { from, resources: limits(&[("pids.limit", &(index + 2).to_string())]) })
            }).collect();
            if let Ok(templates) = Templates::new(all) {
                for (index, template) in templates.names().enumerate() {
                    let none = ResourceSpec::default();
                    let resolved = templates.resolve(Some(template), &none, &none).unwrap();
                    prop_assert_eq!(resolved.resources.pids_limit, u32::try_from(index + 2).ok());
                }
            }
        }
    }
}
