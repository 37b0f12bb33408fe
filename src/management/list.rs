//! How lists are asked for and answered: paging, filtering by name, sorting, and columns (RabbitMQ's query parameters).
//!
//! A list is a vector of [`Row`]s, cheap things such as an `Arc` of a queue. What makes a row JSON is called for
//! the rows of the page only, or, for a list as a whole, while it is sent: so a page of 100,000 queues takes
//! milliseconds, and all of them never are in memory as JSON. Only sorting by a column that no row tells cheaply costs
//! more.

use std::{
    borrow::Cow,
    cmp::Ordering,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Json,
    body::{Body, Bytes, HttpBody},
    extract::{FromRequestParts, Query},
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};
use hyper::body::Frame;
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use super::{Shared, caller::Caller, error::ApiError, rates::Ranges};
use crate::broker::{permission::PATTERN_BYTES_MAX, vhost::VirtualHost};

/// The most rows that a page may have (RabbitMQ).
const PAGE_SIZE_MAX: u64 = 500;
/// The rows of a page where the request does not say (RabbitMQ).
const PAGE_SIZE_DEFAULT: u64 = 100;
/// What the compiled pattern of a name may take, in octets: a short one can ask for much.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// Columns that a request may name.
const COLUMNS_MAX: usize = 256;
/// About how many octets of a list are rendered at a time.
const CHUNK_BYTES: usize = 32 << 10;

/// Something in a list.
pub(super) trait Row: Send + Sync + 'static {
    /// The virtual host it is in; empty where there is none.
    fn virtual_host(&self) -> &str {
        ""
    }

    /// Its name, by which it is filtered and, after the virtual host, sorted.
    fn name(&self) -> Cow<'_, str>;

    /// The value of a column, dotted as in `messages_details.rate`, if it is cheaper to tell than the whole row. A list
    /// that is sorted by it is then not rendered for that.
    fn column(&self, _column: &str) -> Option<Value> {
        None
    }
}

/// What a request for a list, or for one thing with `columns`, asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct ListQuery {
    page: Option<Page>,
    name: Option<Regex>,
    sort: Option<String>,
    sort_reverse: bool,
    columns: Option<Vec<String>>,
    /// Whether only what does not change is asked for: no figures, no rates.
    pub(super) disable_stats: bool,
    /// Whether the numbers of messages are asked for all the same.
    pub(super) enable_queue_totals: bool,
    /// The samples that are asked for.
    pub(super) ranges: Ranges,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    /// From 1.
    number: u64,
    size: u64,
}

/// The rows of a page, in order, and the numbers that go with them.
struct Paged<T> {
    rows: Vec<T>,
    total: usize,
    filtered: usize,
}

impl FromRequestParts<Shared> for ListQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let query = Self::parse(&parameters(parts)?)?;
        if !query.disable_stats {
            api.rates.asked(api.now().unix_ms);
        }
        Ok(query)
    }
}

/// The parameters of a request, decoded, in their order.
///
/// # Errors
/// 400 if they can't be read.
pub(super) fn parameters(parts: &Parts) -> Result<Vec<(String, String)>, ApiError> {
    let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
    query.map(|Query(parameters)| parameters).map_err(|error| ApiError::bad_request(error.body_text()))
}

/// The first value of a parameter, as RabbitMQ takes it.
pub(super) fn parameter<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

impl ListQuery {
    /// What these parameters ask for. `pagination=false`, as KEDA says it, changes nothing, as in RabbitMQ: it is `page`
    /// that makes pages, and without one `name` is not looked at.
    fn parse(parameters: &[(String, String)]) -> Result<Self, ApiError> {
        let get = |name| parameter(parameters, name);
        let page = Page::parse(get("page"), get("page_size"))?;
        let name = match get("name").filter(|name| page.is_some() && !name.is_empty()) {
            Some(name) => Some(name_pattern(name, get("use_regex") == Some("true"))?),
            None => None,
        };
        let columns = get("columns").map(|columns| {
            let columns = columns.split(',').filter(|column| !column.is_empty());
            columns.take(COLUMNS_MAX).map(str::to_owned).collect::<Vec<_>>()
        });
        Ok(Self {
            page,
            name,
            sort: get("sort").filter(|sort| !sort.is_empty()).map(str::to_owned),
            sort_reverse: get("sort_reverse") == Some("true"),
            columns: columns.filter(|columns| !columns.is_empty()),
            disable_stats: get("disable_stats") == Some("true"),
            enable_queue_totals: get("enable_queue_totals") == Some("true"),
            ranges: Ranges::parse(parameters)?,
        })
    }

    /// Answers with a list: those of `rows` that are asked for, as `render` makes them. Default order: by virtual host,
    /// then by name.
    ///
    /// # Errors
    /// 400 if there is no such page.
    pub(super) async fn list<T: Row>(
        self,
        rows: Vec<T>,
        render: impl Fn(&T) -> Value + Send + Sync + 'static,
    ) -> Result<Response, ApiError> {
        // Sorting may take a while, and rendering the rows for it a longer one.
        let answer = tokio::task::spawn_blocking(move || self.answer(rows, render));
        answer
            .await
            .map_err(|_| ApiError::Unavailable("The list could not be made: see the log".to_owned()))?
    }

    /// Answers with a list that is not paged (RabbitMQ does not page them all, whatever is asked for).
    pub(super) async fn whole_list<T: Row>(
        mut self,
        rows: Vec<T>,
        render: impl Fn(&T) -> Value + Send + Sync + 'static,
    ) -> Result<Response, ApiError> {
        self.page = None;
        self.list(rows, render).await
    }

    /// Answers with one thing, of which only the columns that are asked for.
    pub(super) fn one(&self, object: Value) -> Response {
        Json(self.picked(object)).into_response()
    }

    fn answer<T: Row>(
        self,
        rows: Vec<T>,
        render: impl Fn(&T) -> Value + Send + Sync + 'static,
    ) -> Result<Response, ApiError> {
        let Paged { rows, total, filtered } = self.select(rows, &render)?;
        let Some(page) = self.page else {
            return Ok(streamed(rows, move |row| self.picked(render(row))));
        };
        let items: Vec<Value> = rows.iter().map(|row| self.picked(render(row))).collect();
        let answer = json!({
            "total_count": total,
            "filtered_count": filtered,
            "item_count": items.len(),
            "page": page.number,
            "page_size": page.size,
            "page_count": page.count(filtered),
            "items": items,
        });
        Ok(Json(answer).into_response())
    }

    /// Filters, sorts and cuts out the page.
    fn select<T: Row>(&self, mut rows: Vec<T>, render: &impl Fn(&T) -> Value) -> Result<Paged<T>, ApiError> {
        let total = rows.len();
        if let Some(name) = &self.name {
            rows.retain(|row| name.is_match(&row.name()));
        }
        let filtered = rows.len();
        let range = match self.page {
            Some(page) => page.range(filtered)?,
            None => 0..filtered,
        };
        let place = |row: &T, other: &T| {
            (row.virtual_host().cmp(other.virtual_host())).then_with(|| row.name().cmp(&other.name()))
        };
        let rows = match self.sort.as_deref() {
            None | Some("vhost") => self.in_order(rows, range, place),
            Some("name") => self.in_order(rows, range, |row, other| {
                row.name().cmp(&other.name()).then_with(|| row.virtual_host().cmp(other.virtual_host()))
            }),
            Some(column) => {
                let value = |row: &T| row.column(column).unwrap_or_else(|| value_at(&render(row), column));
                let rows = rows.into_iter().map(|row| (value(&row), row)).collect();
                let rows = self.in_order(rows, range, |(value, row), (other_value, other)| {
                    compare(value, other_value).then_with(|| place(row, other))
                });
                rows.into_iter().map(|(_, row)| row).collect()
            }
        };
        Ok(Paged { rows, total, filtered })
    }

    /// That range of the rows in that order. Rows outside of it are not sorted more than needed.
    fn in_order<T>(
        &self,
        mut rows: Vec<T>,
        range: Range<usize>,
        order: impl Fn(&T, &T) -> Ordering,
    ) -> Vec<T> {
        let order = |row: &T, other: &T| {
            let order = order(row, other);
            if self.sort_reverse { order.reverse() } else { order }
        };
        if range.end < rows.len() {
            rows.select_nth_unstable_by(range.end, order);
            rows.truncate(range.end);
        }
        if range.start > 0 && range.start < rows.len() {
            rows.select_nth_unstable_by(range.start, order);
        }
        rows.drain(..range.start);
        rows.sort_unstable_by(order);
        rows
    }

    /// Of an object, the columns that are asked for.
    fn picked(&self, object: Value) -> Value {
        match (&self.columns, object) {
            (Some(columns), Value::Object(object)) => {
                let mut picked = Map::new();
                for column in columns {
                    copy_column(&object, column, &mut picked);
                }
                Value::Object(picked)
            }
            (_, object) => object,
        }
    }
}

impl Page {
    fn parse(page: Option<&str>, size: Option<&str>) -> Result<Option<Self>, ApiError> {
        let Some(page) = page else { return Ok(None) };
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
            // What no u64 holds is no page that there is, either.
            is_number.then(|| text.parse().unwrap_or(u64::MAX))
        };
        let invalid = || ApiError::bad_request("Pagination parameters are invalid");
        let out_of_range = || ApiError::Refused {
            error: "invalid_pagination_parameters",
            reason: format!(
                "Invalid pagination parameters: page number {page}, page size {}",
                size.unwrap_or("undefined")
            ),
        };
        let is_negative = |text: &str| text.strip_prefix('-').and_then(number).is_some();
        if is_negative(page) || size.is_some_and(is_negative) {
            return Err(out_of_range());
        }
        let of = Self {
            number: number(page).ok_or_else(invalid)?,
            size: size.map_or(Some(PAGE_SIZE_DEFAULT), number).ok_or_else(invalid)?,
        };
        if of.number == 0 || !(1..=PAGE_SIZE_MAX).contains(&of.size) {
            return Err(out_of_range());
        }
        Ok(Some(of))
    }

    /// How many pages so many rows have.
    fn count(self, rows: usize) -> u64 {
        (rows as u64).div_ceil(self.size)
    }

    /// The places of its rows. There always is a first page.
    fn range(self, rows: usize) -> Result<Range<usize>, ApiError> {
        if self.number > 1 && self.number > self.count(rows) {
            let (number, size) = (self.number, self.size);
            return Err(ApiError::Refused {
                error: "page_out_of_range",
                reason: format!("Page out of range, page: {number} page size: {size}, len: {rows}"),
            });
        }
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let start = usize::try_from(self.number - 1).unwrap_or(usize::MAX).saturating_mul(size);
        Ok(start..rows.min(start.saturating_add(size)))
    }
}

/// What finds a name, wherever in it and in whichever case (RabbitMQ).
///
/// Deviation: look-around and back-references are refused, for they can take exponential time.
fn name_pattern(name: &str, is_regex: bool) -> Result<Regex, ApiError> {
    let refused =
        |reason: String| ApiError::bad_request(format!("Pagination parameters are invalid: name: {reason}"));
    if name.len() > PATTERN_BYTES_MAX {
        return Err(refused(format!("it has at most {PATTERN_BYTES_MAX} bytes")));
    }
    let pattern = if is_regex { Cow::Borrowed(name) } else { Cow::Owned(regex::escape(name)) };
    let mut builder = RegexBuilder::new(&pattern);
    builder.case_insensitive(true).size_limit(COMPILED_BYTES_MAX).dfa_size_limit(COMPILED_BYTES_MAX);
    builder.build().map_err(|error| refused(error.to_string()))
}

/// The value at a dotted path; 0 where there is none, as RabbitMQ sorts it.
fn value_at(object: &Value, column: &str) -> Value {
    let found = column.split('.').try_fold(object, |value, key| value.get(key));
    found.cloned().unwrap_or(Value::from(0))
}

/// Copies the column of a dotted path, with the objects around it.
fn copy_column(from: &Map<String, Value>, column: &str, to: &mut Map<String, Value>) {
    let Some((key, rest)) = column.split_once('.') else {
        if let Some(value) = from.get(column) {
            to.insert(column.to_owned(), value.clone());
        }
        return;
    };
    match from.get(key) {
        Some(Value::Object(inner)) => {
            let target = to.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(target) = target {
                copy_column(inner, rest, target);
            }
        }
        // RabbitMQ takes what is no object as it is.
        Some(value) => _ = to.insert(key.to_owned(), value.clone()),
        None => {}
    }
}

/// The order of values: that of Erlang's terms, numbers before words before objects before lists before texts.
fn compare(value: &Value, other: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::Bool(false) => 1,
        Value::Null => 2,
        Value::Bool(true) => 3,
        Value::Object(_) => 4,
        Value::Array(_) => 5,
        Value::String(_) => 6,
    };
    match (value, other) {
        (Value::Number(number), Value::Number(other)) => match (number.as_u64(), other.as_u64()) {
            (Some(number), Some(other)) => number.cmp(&other),
            _ => number.as_f64().unwrap_or_default().total_cmp(&other.as_f64().unwrap_or_default()),
        },
        (Value::String(text), Value::String(other)) => text.cmp(other),
        (Value::Array(list), Value::Array(other)) => {
            let order = list.iter().zip(other).map(|(value, other)| compare(value, other));
            order.fold(Ordering::Equal, Ordering::then).then(list.len().cmp(&other.len()))
        }
        (Value::Object(object), Value::Object(other)) => object.len().cmp(&other.len()),
        _ => rank(value).cmp(&rank(other)),
    }
}

/// A list as a body that is rendered while it is sent.
fn streamed<T: Row>(rows: Vec<T>, render: impl Fn(&T) -> Value + Send + 'static) -> Response {
    let rows = Rendered { rows: rows.into_iter(), render, is_begun: false, is_ended: false };
    ([(header::CONTENT_TYPE, "application/json")], Body::new(rows)).into_response()
}

/// Chunks of a list as JSON.
struct Rendered<T, F> {
    rows: std::vec::IntoIter<T>,
    render: F,
    is_begun: bool,
    is_ended: bool,
}

/// Nothing in it is pinned.
impl<T, F> Unpin for Rendered<T, F> {}

impl<T: Row, F: Fn(&T) -> Value> HttpBody for Rendered<T, F> {
    type Data = Bytes;
    type Error = serde_json::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        while chunk.len() < CHUNK_BYTES {
            let begins = !std::mem::replace(&mut self.is_begun, true);
            if begins {
                chunk.push(b'[');
            }
            let Some(row) = self.rows.next() else {
                chunk.push(b']');
                self.is_ended = true;
                break;
            };
            if !begins {
                chunk.push(b',');
            }
            if let Err(error) = serde_json::to_writer(&mut chunk, &(self.render)(&row)) {
                return Poll::Ready(Some(Err(error)));
            }
        }
        Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
    }
}

/// The virtual hosts whose things a list for that user has: that one, or all that the user may see.
///
/// # Errors
/// 404 if there is no such virtual host, 401 if the user is not shown it.
pub(super) fn virtual_hosts(
    api: &Shared,
    caller: &Caller,
    name: Option<&str>,
) -> Result<Vec<Arc<VirtualHost>>, ApiError> {
    match name {
        Some(name) => Ok(vec![caller.visible_host(api, name)?]),
        None => Ok(caller.visible_hosts(api)),
    }
}

/// The virtual host of that name, for that user.
///
/// # Errors
/// 404 if there is none, 401 if the user is not shown it.
pub(super) fn virtual_host(api: &Shared, caller: &Caller, name: &str) -> Result<Arc<VirtualHost>, ApiError> {
    caller.visible_host(api, name)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering as AtomicOrdering};

    use proptest::prelude::*;

    use super::*;

    /// Virtual host, name, and a number that only rendering tells.
    #[derive(Clone, Debug, PartialEq)]
    struct Thing(String, String, i64);

    impl Row for Thing {
        fn virtual_host(&self) -> &str {
            &self.0
        }

        fn name(&self) -> Cow<'_, str> {
            self.1.as_str().into()
        }
    }

    fn rendered(thing: &Thing) -> Value {
        json!({"vhost": thing.0, "name": thing.1, "stats": {"n": thing.2}})
    }

    fn query(parameters: &[(&str, &str)]) -> Result<ListQuery, ApiError> {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ListQuery::parse(&parameters.collect::<Vec<_>>())
    }

    fn names(parameters: &[(&str, &str)], things: Vec<Thing>) -> Vec<String> {
        let paged = query(parameters).and_then(|query| query.select(things, &rendered)).expect("a list");
        paged.rows.into_iter().map(|thing| thing.1).collect()
    }

    fn things(names: &[&str]) -> Vec<Thing> {
        names.iter().map(|name| Thing("/".into(), (*name).into(), 0)).collect()
    }

    #[test]
    fn bad_parameters_are_refused_in_rabbitmqs_words() {
        let invalid = "Pagination parameters are invalid";
        let out_of_range =
            |page, size| format!("Invalid pagination parameters: page number {page}, page size {size}");
        for (parameters, error, reason) in [
            (&[("page", "x")][..], "bad_request", invalid.to_owned()),
            (&[("page", "")], "bad_request", invalid.to_owned()),
            (&[("page", " 1")], "bad_request", invalid.to_owned()),
            (&[("page", "1"), ("page_size", "x")], "bad_request", invalid.to_owned()),
            (&[("page", "0")], "invalid_pagination_parameters", out_of_range("0", "undefined")),
            (&[("page", "-1")], "invalid_pagination_parameters", out_of_range("-1", "undefined")),
            (
                &[("page", "1"), ("page_size", "501")],
                "invalid_pagination_parameters",
                out_of_range("1", "501"),
            ),
            (&[("page", "1"), ("page_size", "0")], "invalid_pagination_parameters", out_of_range("1", "0")),
        ] {
            let expected = match error {
                "bad_request" => ApiError::BadRequest(reason),
                error => ApiError::Refused { error, reason },
            };
            assert_eq!(query(parameters).err(), Some(expected), "{parameters:?}");
        }
        for page in ["2", "99999999999999999999"] {
            let paged = query(&[("page", page), ("page_size", "2")]).expect("a page");
            let error = paged.select(things(&["a", "b"]), &rendered).err();
            assert!(matches!(error, Some(ApiError::Refused { error: "page_out_of_range", .. })), "{error:?}");
        }
        // There always is a first page, and without a page nothing of it is looked at.
        assert!(names(&[("page", "1")], Vec::new()).is_empty());
        assert_eq!(names(&[("page_size", "x"), ("name", "b")], things(&["a", "b"])), ["a", "b"]);
    }

    #[test]
    fn names_are_found_anywhere_and_in_any_case() {
        let all = ["Bär", "bärin", "a.b", "aXb", "(", ""];
        let find = |name: &str, is_regex: &str| {
            names(&[("page", "1"), ("name", name), ("use_regex", is_regex)], things(&all))
        };
        assert_eq!(find("BÄR", "false"), ["Bär", "bärin"]);
        assert_eq!(find("a.b", "false"), ["a.b"]);
        assert_eq!(find("a.b", "true"), ["a.b", "aXb"]);
        assert_eq!(find("^bär$", "true"), ["Bär"]);
        assert_eq!(find("(", "false"), ["("]);
        assert_eq!(find("", "true").len(), all.len());
    }

    #[test]
    fn a_pattern_has_bounds() {
        let long = "a".repeat(PATTERN_BYTES_MAX + 1);
        for (pattern, is_regex) in [
            ("(", "true"),
            (r"(\w{1000}){1000}", "true"),
            ("(?=a)b", "true"),
            (&long, "true"),
            (&long, "false"),
        ] {
            let error = query(&[("page", "1"), ("name", pattern), ("use_regex", is_regex)]).err();
            let text = format!("{error:?}");
            assert!(
                text.starts_with("Some(BadRequest(\"Pagination parameters are invalid: name: "),
                "{text}"
            );
        }
    }

    #[test]
    fn a_page_of_many_renders_no_more_than_its_rows() {
        let things: Vec<_> =
            (0..100_000).rev().map(|n| Thing("/".into(), format!("queue-{n:06}"), n)).collect();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let query = query(&[("page", "500"), ("page_size", "100"), ("name", "queue")]).expect("a query");
        let answer = query.answer(things, move |thing: &Thing| {
            counted.fetch_add(1, AtomicOrdering::Relaxed);
            rendered(thing)
        });
        assert!(answer.is_ok());
        assert_eq!(count.load(AtomicOrdering::Relaxed), 100);
    }

    #[test]
    fn columns_are_picked_at_any_depth() {
        let object = json!({"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": 4});
        let picked = |columns: &str| query(&[("columns", columns)]).expect("columns").picked(object.clone());
        assert_eq!(picked("a,b.d.e,nosuch,b.nosuch"), json!({"a": 1, "b": {"d": {"e": 3}}}));
        assert_eq!(picked("b.c,b.d"), json!({"b": {"c": 2, "d": {"e": 3}}}));
        assert_eq!(picked("f.g"), json!({"f": 4}));
        assert_eq!(picked(","), object);
        assert_eq!(picked(""), object);
    }

    #[test]
    fn values_are_in_the_order_of_erlangs_terms() {
        let ordered = [
            json!(-1),
            json!(0),
            json!(0.5),
            json!(1),
            json!(u64::MAX),
            json!(false),
            json!(null),
            json!(true),
            json!({}),
            json!([]),
            json!([1]),
            json!(""),
            json!("10"),
            json!("9"),
        ];
        for pair in ordered.windows(2) {
            assert_eq!(compare(&pair[0], &pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(&pair[1], &pair[0]), Ordering::Greater, "{pair:?}");
        }
    }

    proptest! {
        #[test]
        fn pages_are_parts_of_the_sorted_list(
            things in prop::collection::vec(("[ab]", "[a-d]{0,2}", 0..4_i64), 0..60),
            size in 1..9_usize,
            sort in prop::sample::select(vec!["", "name", "vhost", "stats.n", "nosuch"]),
            is_reverse: bool,
        ) {
            let things: Vec<_> = things.into_iter().map(|(vhost, name, n)| Thing(vhost, name, n)).collect();
            let reverse = is_reverse.to_string();
            let common = [("sort", sort), ("sort_reverse", &reverse)];
            let whole = query(&common).expect("a query").select(things.clone(), &rendered).expect("a list").rows;
            let key = |thing: &Thing| match sort {
                "name" => (0, thing.1.clone(), thing.0.clone()),
                "stats.n" => (thing.2, thing.0.clone(), thing.1.clone()),
                _ => (0, thing.0.clone(), thing.1.clone()),
            };
            let keys: Vec<_> = whole.iter().map(key).collect();
            let is_sorted = |(a, b): (&_, &_)| if is_reverse { a >= b } else { a <= b };
            prop_assert!(keys.iter().zip(keys.iter().skip(1)).all(is_sorted));
            prop_assert_eq!(whole.len(), things.len());
            let mut paged = Vec::new();
            for number in 1..=things.len().div_ceil(size).max(1) {
                let (number, size) = (number.to_string(), size.to_string());
                let parameters = [&common[..], &[("page", &number), ("page_size", &size)]].concat();
                let page = query(&parameters).expect("a query").select(things.clone(), &rendered);
                paged.extend(page.expect("a page").rows.iter().map(key));
            }
            prop_assert_eq!(paged, keys);
        }
    }
}
