//! The Upload call, with a stream of requests that can fail: a generated client knows only streams that end well.
use futures::Stream;
use kernelbox_proto::v1::{File, UploadRequest};
use tonic::{
    Response, Status,
    client::Grpc,
    codec::{Codec, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::sandbox::SandboxChannel;

/// Fails where the stream does; the connection then resets the call.
#[derive(Default)]
struct Fallible(ProstCodec<UploadRequest, File>);

struct FallibleEncoder(ProstEncoder<UploadRequest>);

impl Codec for Fallible {
    type Encode = Result<UploadRequest, Status>;
    type Decode = File;
    type Encoder = FallibleEncoder;
    type Decoder = ProstDecoder<File>;

    fn encoder(&mut self) -> Self::Encoder {
        FallibleEncoder(self.0.encoder())
    }

    fn decoder(&mut self) -> Self::Decoder {
        self.0.decoder()
    }
}

impl Encoder for FallibleEncoder {
    type Item = Result<UploadRequest, Status>;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.0.encode(item?, buffer)
    }
}

pub(super) async fn upload(
    channel: SandboxChannel,
    requests: impl Stream<Item = Result<UploadRequest, Status>> + Send + 'static,
) -> Result<Response<File>, Status> {
    let mut grpc = Grpc::new(channel);
    // As a generated client does before each call: the channel must have room for it.
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let path = PathAndQuery::from_static("/kernelbox.sandbox.v1.SandboxService/Upload");
    grpc.client_streaming(tonic::Request::new(requests), path, Fallible::default()).await
}
