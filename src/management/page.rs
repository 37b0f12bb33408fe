//! The web page: files that the binary holds, served without a login. The page itself logs in, to the API.
//!
//! The files are in `page/`, as browsers take them: HTML, a style sheet, and JavaScript modules. Nothing is built, nothing
//! is fetched from elsewhere, and the policy sent along forbids both that and all code that is not in these files.

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::Shared;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const ICON: &str = "image/svg+xml";

/// What a browser may do with the page: run these files, show them, and talk to this port; nothing else. Trusted Types take
/// from scripts what makes markup or code out of text.
const POLICY: &str = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// A file of the page.
#[derive(Clone, Copy, Debug)]
struct Asset {
    /// Below `page/`, and below `/`.
    path: &'static str,
    content_type: &'static str,
    content: &'static str,
}

/// The files by kind, each read when the binary is built.
macro_rules! assets {
    ($($content_type:ident: $($path:literal)*;)*) => {
        &[$($(Asset {
            path: $path,
            content_type: $content_type,
            content: include_str!(concat!("page/", $path)),
        }),*),*]
    };
}

const ASSETS: &[Asset] = assets! {
    HTML: "index.html";
    STYLE: "style.css";
    ICON: "icon.svg";
    SCRIPT: "api.js" "app.js" "chart.js" "dom.js" "form.js" "format.js" "notice.js" "place.js" "poll.js" "session.js"
        "table.js" "theme.js" "views/bindings.js" "views/channels.js" "views/connections.js" "views/definitions.js"
        "views/exchanges.js" "views/limits.js" "views/lines.js" "views/overview.js" "views/permissions.js"
        "views/policies.js" "views/publish.js" "views/queue.js" "views/queues.js" "views/shovels.js" "views/users.js"
        "views/vhosts.js";
};

pub(super) fn routes() -> Router<Shared> {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        let path = if asset.content_type == HTML { "/".to_owned() } else { format!("/{}", asset.path) };
        let tag = entity_tag(asset);
        router.route(&path, get(async move |headers: HeaderMap| answer(asset, &tag, &headers)))
    })
}

/// Takes the challenge out of an answer of the API that refuses credentials, if a script has asked: a browser would show
/// a window of its own for it, over the page's. Scripts say so by `X-Requested-With`.
pub(super) async fn without_challenge(request: Request, next: Next) -> Response {
    let is_script = request.headers().contains_key("x-requested-with");
    let mut response = next.run(request).await;
    if is_script {
        response.headers_mut().remove(header::WWW_AUTHENTICATE);
    }
    response
}

fn answer(asset: &Asset, tag: &HeaderValue, headers: &HeaderMap) -> Response {
    let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag);
    // A browser asks each time whether it has the newest one (`Cache-Control`), as the listener has it asked.
    let common =
        [(header::ETAG, tag.clone()), (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY))];
    if is_known {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let typed = [(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type))];
    (common, typed, asset.content).into_response()
}

/// What tells one version of a file from another.
fn entity_tag(asset: &Asset) -> HeaderValue {
    let digest = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(asset.content));
    let tag = format!("\"{}\"", &digest[..16]);
    HeaderValue::from_str(&tag).expect("invariant: base64 in quotes is a value of a header")
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        path::{Path, PathBuf},
    };

    use super::{ASSETS, HTML};

    #[test]
    fn every_file_of_the_page_is_served() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/management/page");
        let mut files = Vec::new();
        find(&directory, &mut files);
        let on_disk: BTreeSet<String> = files
            .iter()
            .map(|file| file.strip_prefix(&directory).expect("below it").to_string_lossy().into_owned())
            .collect();
        let served: BTreeSet<String> = ASSETS.iter().map(|asset| asset.path.to_owned()).collect();
        assert_eq!(served, on_disk);
    }

    #[test]
    fn no_file_makes_markup_or_code_out_of_text_or_names_another_host() {
        for asset in ASSETS {
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "DOMParser",
                "eval(",
                "new Function",
                "javascript:",
                "srcdoc",
            ] {
                assert!(!asset.content.contains(forbidden), "{}: {forbidden}", asset.path);
            }
            let addresses = asset.content.matches("http").count();
            let names = asset.content.matches("http://www.w3.org/2000/svg").count();
            assert_eq!(addresses, names, "{}: only the name space of SVG looks like an address", asset.path);
        }
    }

    #[test]
    fn the_document_has_neither_scripts_nor_styles_in_its_lines() {
        for asset in ASSETS.iter().filter(|asset| asset.content_type == HTML) {
            assert!(!asset.content.contains("<style") && !asset.content.contains("style="));
            assert!(!asset.content.contains("<script>") && !asset.content.contains(" on"));
        }
    }

    fn find(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                find(&path, files);
            } else {
                files.push(path);
            }
        }
    }
}
