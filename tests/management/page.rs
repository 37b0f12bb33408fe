//! The web page as a browser fetches it. What it does there is tested in `interop/test_page.py`.

use crate::broker::TestBroker;

#[test]
fn the_page_needs_no_login_and_names_only_files_that_are_there() {
    let broker = TestBroker::start("");
    let page = broker.fetch("/", &[]);
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    for (path, content_type) in [
        ("style.css", "text/css; charset=utf-8"),
        ("theme.js", "text/javascript; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ] {
        assert!(page.body.contains(&format!("\"{path}\"")), "{path}");
        let file = broker.fetch(&format!("/{path}"), &[]);
        assert_eq!((file.status, file.header("content-type")), (200, Some(content_type)), "{path}");
    }
    assert_eq!(broker.fetch("/views/queue.js", &[]).status, 200);
    assert_eq!(broker.fetch("/views/", &[]).status, 404);
    assert_eq!(broker.fetch("/..%2F..%2FCargo.toml", &[]).status, 404);
}

#[test]
fn a_browser_runs_nothing_but_its_files_and_is_asked_to_look_for_new_ones() {
    let broker = TestBroker::start("");
    for path in ["/", "/app.js"] {
        let file = broker.fetch(path, &[]);
        let policy = file.header("content-security-policy").expect("a policy");
        for part in ["default-src 'self'", "require-trusted-types-for 'script'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(file.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(file.header("cache-control"), Some("no-cache"));
        let tag = file.header("etag").expect("a tag");
        let again = broker.fetch(path, &[("if-none-match", tag)]);
        assert_eq!((again.status, again.body.as_str()), (304, ""));
        assert_eq!(broker.fetch(path, &[("if-none-match", "\"old\"")]).status, 200);
    }
}

#[test]
fn only_tools_are_challenged_for_credentials_since_a_browser_would_ask_in_a_window_of_its_own() {
    let broker = TestBroker::start("");
    let tool = broker.fetch("/api/whoami", &[]);
    assert_eq!(tool.status, 401);
    assert!(tool.header("www-authenticate").is_some());
    let page = broker.fetch("/api/whoami", &[("x-requested-with", "Leveret")]);
    assert_eq!(page.status, 401);
    assert_eq!(page.header("www-authenticate"), None);
    assert_eq!(page.json(), tool.json());
}
