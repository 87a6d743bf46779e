//! gRPC of tonic, without generated code: the methods, calls and ledger of the Go program in `workloads/grpc/main.go`.
//!
//! It serves, or calls where a target is named. The number of a call decides how it ends. It serves grpc-web too, and
//! calls so with `--web 1`, over HTTP/1.1, or `--web 2`, over HTTP/2.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::tokio_stream::{Stream, StreamExt as _, iter};
use tonic::codegen::{Body as HttpBody, Service, StdError, http};
use tonic::server::{NamedService, StreamingService};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_web::{GrpcWebClientService, GrpcWebLayer};

const MESSAGES: usize = 5;

/// Messages are bytes as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

/// How a call ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Answered,
    Refused,
    Unavailable,
    Cancelled,
    Late,
}

/// What is in a method's name, `/test.Echo/KIND-NUMBER`.
#[derive(Clone)]
struct Method {
    kind: String,
    end: End,
}

impl Method {
    fn parse(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or_default();
        let (kind, number) = name.split_once('-').unwrap_or((name, "0"));
        let end = match number.parse::<usize>().unwrap_or_default() % 20 {
            3 | 13 => End::Refused,
            7 => End::Unavailable,
            9 => End::Cancelled,
            19 => End::Late,
            _ => End::Answered,
        };
        Self { kind: kind.to_owned(), end }
    }

    fn sends(&self) -> usize {
        if matches!(self.kind.as_str(), "Client" | "Both") { MESSAGES } else { 1 }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<Vec<u8>, Status>> + Send>>;

impl StreamingService<Vec<u8>> for Method {
    type Response = Vec<u8>;
    type ResponseStream = Answers;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answers>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        Box::pin(answer(self.clone(), request.into_inner()))
    }
}

async fn answer(method: Method, mut asked: Streaming<Vec<u8>>) -> Result<Response<Answers>, Status> {
    match method.end {
        End::Answered => {}
        End::Refused => return Err(Status::not_found("no such thing")),
        End::Unavailable => return Err(Status::unavailable("not now")),
        End::Cancelled | End::Late => std::future::pending().await,
    }
    let (answers, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut last = Vec::new();
        while let Some(Ok(message)) = asked.next().await {
            last.clone_from(&message);
            if method.kind == "Both" && answers.send(Ok(message)).await.is_err() {
                return;
            }
        }
        let more = match method.kind.as_str() {
            "Unary" | "Client" => 1,
            "Server" => MESSAGES,
            _ => 0,
        };
        for _ in 0..more {
            if answers.send(Ok(last.clone())).await.is_err() {
                return;
            }
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
}

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Method::parse(request.uri().path());
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).streaming(method, request).await) })
    }
}

/// What carries calls.
trait Channel:
    GrpcService<
        Body,
        ResponseBody: HttpBody<Error: Into<StdError>> + Send + 'static,
        Future: Send,
        Error: Into<StdError>,
    > + Clone
    + Send
    + 'static
{
}

impl<C> Channel for C where
    C: GrpcService<
            Body,
            ResponseBody: HttpBody<Error: Into<StdError>> + Send + 'static,
            Future: Send,
            Error: Into<StdError>,
        > + Clone
        + Send
        + 'static
{
}

async fn call(channel: impl Channel, target: &str, path: String) -> anyhow::Result<()> {
    let method = Method::parse(&path);
    let began = Instant::now();
    let (received, code) = tokio::select! {
        done = exchange(channel, target, &path, &method) => done?,
        () = tokio::time::sleep(Duration::from_millis(20)), if method.end == End::Cancelled => (0, 1),
    };
    let took = began.elapsed().as_nanos();
    println!("{} {code} {} {received} {took}", path.trim_start_matches('/'), method.sends());
    Ok(())
}

/// Messages received, and the status's code.
async fn exchange(
    channel: impl Channel,
    target: &str,
    path: &str,
    method: &Method,
) -> anyhow::Result<(usize, i32)> {
    let mut client = tonic::client::Grpc::with_origin(channel, format!("http://{target}").parse()?);
    client.ready().await.map_err(|error| anyhow::anyhow!(error.into()))?;
    let mut request = Request::new(iter(vec![vec![b'x'; 20]; method.sends()]));
    if method.end == End::Late {
        request.set_timeout(Duration::from_millis(20));
    }
    let mut answers = match client.streaming(request, path.parse()?, Raw).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return Ok((0, status.code().into())),
    };
    let mut received = 0;
    loop {
        match answers.message().await {
            Ok(Some(_)) => received += 1,
            Ok(None) => return Ok((received, 0)),
            Err(status) => return Ok((received, status.code().into())),
        }
    }
}

/// What is to be called, and how much at a time.
struct Calls {
    target: String,
    count: usize,
    concurrency: usize,
}

impl Calls {
    async fn make(&self, channel: impl Channel) -> anyhow::Result<()> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut callers = Vec::new();
        for _ in 0..self.concurrency {
            let (channel, target, next) = (channel.clone(), self.target.clone(), Arc::clone(&next));
            let count = self.count;
            callers.push(tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return anyhow::Ok(());
                    }
                    let kind = ["Unary", "Client", "Server", "Both"][number % 4];
                    call(channel.clone(), &target, format!("/test.Echo/{kind}-{number}")).await?;
                }
            }));
        }
        for caller in callers {
            caller.await??;
        }
        // What gives streams up is sent behind the program's back.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(())
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let mut options = HashMap::new();
    let mut args = std::env::args().skip(1);
    while let (Some(key), Some(value)) = (args.next(), args.next()) {
        options.insert(key.trim_start_matches("--").to_owned(), value);
    }
    let Some(target) = options.get("target") else {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        println!("PORT {}", listener.local_addr()?.port());
        let incoming =
            tonic::transport::server::TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?);
        let mut server = Server::builder().accept_http1(true).layer(GrpcWebLayer::new());
        server.add_service(Echo).serve_with_incoming(incoming).await?;
        return Ok(());
    };
    let number =
        |name: &str, default| options.get(name).map_or(Ok(default), |text: &String| text.parse::<usize>());
    let (count, concurrency) = (number("count", 100)?, number("concurrency", 10)?);
    let calls = Calls { target: target.clone(), count, concurrency };
    match number("web", 0)? {
        0 => calls.make(Endpoint::from_shared(format!("http://{target}"))?.connect().await?).await,
        version => {
            let mut client = Client::builder(TokioExecutor::new());
            let client = client.http2_only(version == 2).build_http::<tonic_web::GrpcWebCall<Body>>();
            calls.make(GrpcWebClientService::new(client)).await
        }
    }
}
