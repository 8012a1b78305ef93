//! `GET /v1/queries`

use crate::{
    app::App,
    ask::is_operation,
    edge::{Call, Caller, Error, Params, Reads},
    openapi::Doc,
};
use axum::{Json, extract::State};
use domain::{
    id::AccountId,
    query::Status,
    subject::View,
    wire::{
        rest::QueryItem,
        view::{Queries, QueryPage},
    },
};
use http::{HeaderMap, HeaderValue};

pub(crate) const DOC: Doc = Doc::get("/v1/queries", "The caller's queries, newest first")
    .by_key::<Reads>()
    .parameters(&["limit", "cursor", "status", "operation"])
    .answers(200, "QueryItems");

const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 100;

pub(crate) async fn handle(
    State(app): State<App>,
    call: Call,
    caller: Caller<Reads>,
    params: Params,
) -> Result<(HeaderMap, Json<Vec<QueryItem>>), Error> {
    let question = read(caller.user, &params)?;
    let page: QueryPage = app.ask(&call, caller.user, View::Queries, question).await?;
    let mut headers = HeaderMap::new();
    let next = page.next.map(|place| place.to_string());
    if let Some(Ok(next)) = next.map(|next| HeaderValue::from_str(&next)) {
        headers.insert("x-next-cursor", next);
    }
    Ok((headers, Json(page.items)))
}

fn read(owner: AccountId, params: &Params) -> Result<Queries, Error> {
    let limit = params.parsed("limit")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Error::bad_parameter("limit", "must be 1 to 100"));
    }
    let status = match params.get("status") {
        None => None,
        Some(text) => Some(
            Status::parse(text).ok_or_else(|| Error::bad_parameter("status", "is no status"))?,
        ),
    };
    let operation = params.get("operation").map(str::to_owned);
    if operation.as_deref().is_some_and(|name| !is_operation(name)) {
        return Err(Error::bad_parameter("operation", "is no operation"));
    }
    Ok(Queries::List {
        owner,
        limit,
        after: params.parsed("cursor")?,
        status,
        operation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::FromRequestParts;

    async fn read_query(query: &str) -> Result<Queries, Error> {
        let (mut parts, ()) = http::Request::get(format!("/v1/queries?{query}"))
            .body(())
            .unwrap()
            .into_parts();
        let params = Params::from_request_parts(&mut parts, &()).await.unwrap();
        read(AccountId::new(uuid::Uuid::nil()), &params)
    }

    #[tokio::test]
    async fn parameters_are_checked() {
        let Ok(Queries::List { limit, after, .. }) = read_query("").await else {
            panic!("refused")
        };
        assert_eq!((limit, after), (20, None));
        let cursor = "1741079700000_00000000-0000-0000-0000-000000000005";
        let good = format!("limit=100&status=completed&operation=general&cursor={cursor}");
        assert!(read_query(&good).await.is_ok());
        for bad in [
            "limit=0",
            "limit=101",
            "limit=x",
            "status=odd",
            "cursor=x",
            "operation=A",
        ] {
            assert_eq!(read_query(bad).await.unwrap_err().status, 400, "{bad}");
        }
    }
}
