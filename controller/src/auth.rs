//! Who may ask: gateways show a token of their service account that was made for us; the API server says whose it is.
use std::{sync::Arc, time::Duration};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kernelbox_proto::{Error, v1::ErrorCode};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use moka::future::Cache;
use sha2::{Digest as _, Sha256};
use tonic::metadata::MetadataMap;

/// The audience that the tokens must be made for.
pub const AUDIENCE: &str = "kernelbox-controller";
/// An answer is used again for so long;
const KEPT: Duration = Duration::from_secs(60);
/// and for so long where the API server gives no other.
const KEPT_AT_MOST: Duration = Duration::from_mins(10);
const LIMIT: Duration = Duration::from_secs(5);

/// Asks the API server whose tokens are.
#[derive(Clone)]
pub struct Gateways {
    reviews: Api<TokenReview>,
    /// system:serviceaccount:{namespace}:{name}
    accounts: Arc<Vec<String>>,
    /// By the token's hash: whose it is, and whose it was when that could last be said.
    known: Cache<[u8; 32], String>,
    remembered: Cache<[u8; 32], String>,
}

impl Gateways {
    pub fn new(client: Client, accounts: Vec<String>) -> Self {
        let cache = |kept| Cache::builder().max_capacity(1_000).time_to_live(kept).build();
        Self {
            reviews: Api::all(client),
            accounts: Arc::new(accounts),
            known: cache(KEPT),
            remembered: cache(KEPT_AT_MOST),
        }
    }

    /// Refuses a call that no gateway makes.
    pub async fn check(&self, metadata: &MetadataMap) -> Result<(), Error> {
        let authorization = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let token = authorization
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| {
                let message = format!(
                    "send a service account's token for the audience {AUDIENCE} as `authorization: Bearer ...`"
                );
                Error::new(ErrorCode::Unauthenticated, message)
            })?;
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let account = match self.known.try_get_with(hash, self.review(token.to_owned())).await {
            Ok(account) => {
                self.remembered.insert(hash, account.clone()).await;
                account
            }
            // Nobody says otherwise now.
            Err(error) if error.code == ErrorCode::DeadlineExceeded => {
                self.remembered.get(&hash).await.ok_or_else(|| Error::clone(&error))?
            }
            Err(error) => {
                self.remembered.invalidate(&hash).await;
                return Err(Error::clone(&error));
            }
        };
        if self.accounts.contains(&account) {
            return Ok(());
        }
        Err(Error::new(ErrorCode::PermissionDenied, format!("{account} is no gateway (--gateway-account)")))
    }

    async fn review(&self, token: String) -> Result<String, Error> {
        let spec = TokenReviewSpec { token: Some(token), audiences: Some(vec![AUDIENCE.to_owned()]) };
        let review = TokenReview { metadata: ObjectMeta::default(), spec, status: None };
        let params = PostParams::default();
        let answer = tokio::time::timeout(LIMIT, self.reviews.create(&params, &review)).await;
        let status = match answer {
            Ok(Ok(review)) => review.status.unwrap_or_default(),
            silent => {
                let error = silent.ok().and_then(Result::err);
                tracing::error!(
                    error = error.as_ref().map(|it| it as &dyn std::error::Error),
                    "a token cannot be reviewed"
                );
                let message = "the API server does not say whose the token is; try again";
                return Err(Error::new(ErrorCode::DeadlineExceeded, message));
            }
        };
        let is_ours = status.audiences.iter().flatten().any(|audience| audience == AUDIENCE);
        let user = status.user.and_then(|user| user.username);
        user.filter(|_| status.authenticated == Some(true) && is_ours)
            .ok_or_else(|| Error::new(ErrorCode::Unauthenticated, "the token is not valid here"))
    }
}

#[cfg(test)]
mod tests;
