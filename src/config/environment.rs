//! `${NAME}` and `${NAME:-default}` in string values. `$${` stands for a plain `${`.

/// Replaces every reference once. References inside of replaced values are left as they are.
pub(super) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        expanded.push_str(before);
        let Some((reference, after)) = after.split_once('}') else {
            return Err(format!("has \"${{\" without \"}}\" in {text:?}; a plain one is \"$${{\""));
        };
        let (name, default) = match reference.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        let well_formed = |name: &str| {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            plain && name.starts_with(|first: char| !first.is_ascii_digit())
        };
        if !well_formed(name) {
            return Err(format!(
                "refers to {name:?}, which cannot be the name of an environment variable; a plain \
                 \"${{\" is written \"$${{\""
            ));
        }
        // As in a shell: ":-" also stands in for a variable that is empty.
        let found = env(name).filter(|value| default.is_none() || !value.is_empty());
        match found.as_deref().or(default) {
            Some(value) => expanded.push_str(value),
            None => {
                return Err(format!(
                    "needs the environment variable {name}, which is not set; set it, or give a \
                     default as \"${{{name}:-default}}\""
                ));
            }
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_once() {
        let env = |name: &str| match name {
            "HOST" => Some("a.example".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${HOST}".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("", ""),
            ("plain $HOST $ {}", "plain $HOST $ {}"),
            ("${HOST}", "a.example"),
            ("x${HOST}y${HOST}z", "xa.exampleya.examplez"),
            ("${NONE:-fallback}", "fallback"),
            ("${NONE:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-fallback}", "fallback"),
            ("${TRICK}", "${HOST}"),
            ("$${HOST}", "${HOST}"),
            ("é${HOST}é", "éa.exampleé"),
        ] {
            assert_eq!(expand(text, &env).as_deref(), Ok(expected), "{text}");
        }
        for (text, part) in [
            ("${NONE}", "variable NONE, which is not set"),
            ("${HOST", "without \"}\""),
            ("${}", "cannot be the name"),
            ("${A B}", "cannot be the name"),
            ("${1}", "cannot be the name"),
        ] {
            let message = expand(text, &env).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
