//! What containers may use: templates of the configuration (`[template.NAME]`), and what they and the node's defaults
//! make of a container's own words. The arithmetic is the model's.

use std::collections::BTreeMap;

use insula_api::{Problem, ProblemCode, TemplateView};
use insula_model::{
    ContainerSpec, DefineTemplateError, NameError, Origin, Resolved, ResourceSpec, SettingError, Template,
    TemplateName, Templates,
};

use crate::config::Config;

/// A template of the configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateConfigError {
    /// Its name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not a table, or a value that is neither text nor number.
    #[error(
        "template `{template}`: `{key}` has the wrong form; write KEY = VALUE as for --set, such as memory.limit = \"256MiB\""
    )]
    Form {
        /// Which template.
        template: String,
        /// Which key of it.
        key: String,
    },
    /// No limit, or no value for it.
    #[error("template `{template}`")]
    Setting {
        /// Which template.
        template: TemplateName,
        /// What is wrong.
        #[source]
        source: Box<SettingError>,
    },
    /// They do not go together.
    #[error(transparent)]
    Define(#[from] Box<DefineTemplateError>),
}

/// Reads the templates of a configuration.
///
/// # Errors
///
/// The first template that cannot be used, and why.
pub(crate) fn read_templates(given: &toml::Value) -> Result<Templates, TemplateConfigError> {
    let form =
        |template: &str, key: &str| TemplateConfigError::Form { template: template.to_owned(), key: key.to_owned() };
    let tables = given.as_table().ok_or_else(|| form("", "template"))?;
    let mut templates = BTreeMap::new();
    for (name, table) in tables {
        let table = table.as_table().ok_or_else(|| form(name, name))?;
        let name = TemplateName::new(name)?;
        let mut template = Template::default();
        let mut settings = Vec::new();
        flatten(table, "", &mut settings);
        for (key, value) in settings {
            let text = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                _ => return Err(form(name.as_str(), &key)),
            };
            if key == "from" {
                template.from = Some(TemplateName::new(text)?);
                continue;
            }
            let wrong = |source| TemplateConfigError::Setting { template: name.clone(), source: Box::new(source) };
            template.resources.apply(&key, &text).map_err(wrong)?;
        }
        templates.insert(name, template);
    }
    Ok(Templates::new(templates).map_err(Box::new)?)
}

/// `memory.limit = 1` is a table in a table to TOML.
fn flatten<'a>(table: &'a toml::Table, prefix: &str, into: &mut Vec<(String, &'a toml::Value)>) {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) => flatten(inner, &format!("{key}."), into),
            value => into.push((key, value)),
        }
    }
}

impl Config {
    /// What holds where neither a container nor its template says.
    pub(crate) fn default_resources(&self) -> ResourceSpec {
        ResourceSpec {
            memory_limit: Some(self.defaults.memory_limit),
            memory_guarantee: Some(self.defaults.memory_guarantee),
            pids_limit: Some(self.defaults.pids_limit),
            data_size: self.defaults.data_size,
            ..ResourceSpec::default()
        }
    }

    /// What holds for a container.
    ///
    /// # Errors
    ///
    /// Its template is unknown, or its own values contradict those of its template or of the node.
    pub(crate) fn resolve(&self, spec: &ContainerSpec) -> Result<Resolved, Problem> {
        let resolved = self
            .templates
            .resolve(spec.template.as_ref(), &spec.resources, &self.default_resources())
            .map_err(|error| {
                Problem::from_chain(ProblemCode::NotFound, &error)
                    .with_remedy("`insula template list` shows those of the node's configuration")
            })?;
        resolved.resources.check().map_err(|error| {
            let (low, high) = ("memory.guarantee", "memory.limit");
            let origin = |key: &str| resolved.origins.get(key).map_or_else(String::new, ToString::to_string);
            let mut problem = Problem::from_chain(ProblemCode::Invalid, &error);
            problem.detail = format!("{} ({low}: {}, {high}: {})", problem.detail, origin(low), origin(high));
            problem
        })?;
        Ok(resolved)
    }

    /// A template with what it has from its ancestors and the node.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub(crate) fn view_template(&self, name: &TemplateName) -> Result<TemplateView, Problem> {
        let unknown = |error| Problem::from_chain(ProblemCode::NotFound, &error);
        let from = self.templates.get(name).map_err(unknown)?.from.clone();
        let nothing = ResourceSpec::default();
        let resolved = self.templates.resolve(Some(name), &nothing, &self.default_resources()).map_err(unknown)?;
        let (mut resources, mut origins) = (resolved.resources.clone(), origins(&resolved));
        self.show_files_limit(&mut resources, &mut origins);
        Ok(TemplateView { name: name.clone(), from, resources, origins })
    }

    /// Adds the node's default of open files where nothing else is said. It is none of [`Self::default_resources`]: it
    /// is where a process begins, and not the most it may have.
    pub(crate) fn show_files_limit(&self, resources: &mut ResourceSpec, origins: &mut BTreeMap<String, String>) {
        if resources.files_limit.is_none() && resources.ulimits.iter().all(|limit| limit.name.as_str() != "nofile") {
            resources.files_limit = Some(self.defaults.files_limit);
            origins.insert("files.limit".to_owned(), Origin::Node.to_string());
        }
    }
}

/// Where each value came from, in words.
pub(crate) fn origins(resolved: &Resolved) -> BTreeMap<String, String> {
    resolved.origins.iter().map(|(key, origin)| (key.clone(), origin.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_model::Bytes;

    fn read(text: &str) -> Result<Templates, TemplateConfigError> {
        let table: toml::Table = text.parse().unwrap();
        read_templates(&table["template"])
    }

    #[test]
    fn templates_are_written_with_the_keys_of_settings() {
        let templates = read(
            "[template.small]\nmemory.limit = '64MiB'\ncpu.limit = 0.5\nulimit.core = '0'\n\
             [template.web]\nfrom = 'small'\n'pids.limit' = 64",
        )
        .unwrap();
        let nothing = ResourceSpec::default();
        let web = templates.resolve(Some(&"web".parse().unwrap()), &nothing, &nothing).unwrap().resources;
        assert_eq!((web.memory_limit, web.pids_limit), (Some(Bytes::mib(64)), Some(64)));
        assert_eq!(web.cpu_limit.unwrap().millis(), 500);
        assert_eq!(web.ulimits.len(), 1);
    }

    #[test]
    fn what_is_wrong_with_a_template_is_said_with_its_name() {
        for (text, words) in [
            ("[template.a]\nmemory.limt = '1GiB'", "the nearest is memory.limit"),
            ("[template.a]\nhostname = 'x'", "setting hostname is no limit"),
            ("[template.a]\npids.limit = [1]", "template `a`: `pids.limit` has the wrong form"),
            ("[template]\na = 5", "template `a`: `a` has the wrong form"),
            ("[template.A]\n", "template name `A`"),
            ("[template.a]\nfrom = 'b'", "template `b` is unknown"),
        ] {
            let error = read(text).unwrap_err();
            let problem = Problem::from_chain(ProblemCode::Invalid, &error);
            assert!(problem.detail.contains(words), "{text}: {}", problem.detail);
        }
    }
}
