//! Host variables: `${PORT}` in a manifest takes its value from the host's own configuration, so that
//! one signed manifest fits hosts that differ.

use std::collections::BTreeMap;

/// A host's variables, by name.
pub type Variables = BTreeMap<String, String>;

/// Why a text could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// The host does not define it.
    #[error(
        "the manifest uses ${{{name}}}, which this host does not define\n\
         help: set it under [variables] in the agent's configuration"
    )]
    Unknown {
        /// The variable's name.
        name: String,
    },
    /// `${` without `}`.
    #[error("{text:?} opens a variable with ${{ and does not close it")]
    Open {
        /// The text as the manifest has it.
        text: String,
    },
}

/// Replaces each `${NAME}` by the host's value. Values are not expanded again, and nothing is ever
/// handed to a shell.
///
/// # Errors
/// A variable that the host does not define, or one that is not closed.
pub fn expand(text: &str, variables: &Variables) -> Result<String, ExpandError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) =
            after.split_once('}').ok_or_else(|| ExpandError::Open { text: text.to_owned() })?;
        let value =
            variables.get(name).ok_or_else(|| ExpandError::Unknown { name: name.to_owned() })?;
        expanded.push_str(before);
        expanded.push_str(value);
        rest = tail;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_put_in_once_and_never_expanded_again() {
        let variables = Variables::from([("A".into(), "${B}".into()), ("P".into(), "80".into())]);
        assert_eq!(expand("x:${P}/${A}$", &variables).unwrap(), "x:80/${B}$");
        assert_eq!(expand("${B}", &variables), Err(ExpandError::Unknown { name: "B".into() }));
        assert!(matches!(expand("${P", &variables), Err(ExpandError::Open { .. })));
    }
}
