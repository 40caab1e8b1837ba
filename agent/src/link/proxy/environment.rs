//! The proxies that the environment names, as curl reads them: the lower-case name first, the scheme's own
//! before `all_proxy`, and an empty value for none. A value that can't be used is named in the log and not
//! used: an agent that does not start would be worse than one that calls directly.

use super::{Exceptions, Proxies, Proxy};

impl Proxies {
    /// From the environment, by the names that `variable` knows. The server is reached by TLS, so its proxy
    /// is `https_proxy`'s; that of mirrors is `http_proxy`'s.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Proxies {
        let server = chosen(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"], variable);
        // A web server gives its CGI programs the request's header `Proxy` under this name.
        let cgi = variable("REQUEST_METHOD").is_some();
        let names: &[_] = match cgi {
            false => &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
            true => &["http_proxy", "all_proxy", "ALL_PROXY"],
        };
        let mirrors = chosen(names, variable);
        let except = ["no_proxy", "NO_PROXY"].into_iter().find_map(variable);
        let (exceptions, bad) = Exceptions::read(&except.unwrap_or_default());
        for entry in bad {
            tracing::warn!("an entry of no_proxy is left out: {entry}");
        }
        Proxies { server, mirrors, exceptions }
    }
}

/// What the first of these that is set names.
fn chosen(names: &[&str], variable: &dyn Fn(&str) -> Option<String>) -> Option<Proxy> {
    let (name, value) = names.iter().find_map(|name| Some((name, variable(name)?)))?;
    if value.trim().is_empty() {
        return None;
    }
    match value.trim().parse() {
        Ok(proxy) => Some(proxy),
        Err(error) => {
            tracing::warn!("the proxy that {name} names is not used: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(set: &[(&str, &str)]) -> (Option<String>, Option<String>) {
        let variable = |name: &str| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let proxies = Proxies::from_environment(&variable);
        let shown = |proxy: Option<&Proxy>| proxy.map(ToString::to_string);
        (shown(proxies.to_server("refit.test", 7700)), shown(proxies.to_mirror("mirror.test", 80)))
    }

    #[test]
    fn the_environment_is_read_as_curl_reads_it() {
        let some = |name: &str| Some(format!("http://{name}:1"));
        for (set, server, mirror) in [
            (&[][..], None, None),
            (&[("HTTPS_PROXY", "a:1")], some("a"), None),
            (&[("HTTPS_PROXY", "a:1"), ("https_proxy", "b:1")], some("b"), None),
            (&[("http_proxy", "a:1")], None, some("a")),
            (&[("HTTP_PROXY", "a:1")], None, some("a")),
            (&[("HTTP_PROXY", "a:1"), ("REQUEST_METHOD", "GET")], None, None),
            (&[("ALL_PROXY", "a:1")], some("a"), some("a")),
            (&[("ALL_PROXY", "a:1"), ("https_proxy", "b:1")], some("b"), some("a")),
            (&[("ALL_PROXY", "a:1"), ("https_proxy", "")], None, some("a")),
            (&[("ALL_PROXY", "a:1"), ("NO_PROXY", "refit.test")], None, some("a")),
            (&[("all_proxy", "a:1"), ("no_proxy", "x"), ("NO_PROXY", "*")], some("a"), some("a")),
            (&[("HTTPS_PROXY", "socks5://a:1")], None, None),
        ] {
            assert_eq!(proxies(set), (server, mirror), "{set:?}");
        }
    }
}
