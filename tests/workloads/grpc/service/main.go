// A service that is called by gRPC: answers /test/work/ID after up to three calls of /test/work/ID.N downstream, one after
// the other or at once, all through one connection. Meanwhile a goroutine calls the same downstream, as bg-PID-N, from the
// first request on. There is no generated code: the server takes any method.
//
// --model plain    the goroutine that serves calls, or one per call
// --model workers  twelve goroutines take calls from a channel; who serves waits for the answer of its own
// --model hired    as workers, but each of them is started by a request that finds all of them busy, and stays
// --model forget   a goroutine per call, for which nobody waits
//
// With --tls it serves and calls under TLS, with a certificate of its own making that nobody looks at. With --http serve or
// call it does so by HTTP/1. With --hand-on it serves by HTTP/1, and hands on each request by gRPC under the same name.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"workload/certificate"
)

var (
	downstream   = flag.String("downstream", "", "HOST:PORT")
	backgroundMs = flag.Int("background-ms", 15, "0: no background calls")
	ledgerPath   = flag.String("ledger", "", "file to write the truth to: a call's id, its request's or -, its status")
	model        = flag.String("model", "plain", "plain, workers, hired or forget")
	speaksTLS    = flag.Bool("tls", false, "TLS in both roles")
	byHTTP       = flag.String("http", "", "serve or call")
	handOn       = flag.Bool("hand-on", false, "serve by HTTP/1, and hand on by gRPC")
	workers      = flag.Uint("stream-workers", 0, "goroutines that serve streams one after the other")
	names        = flag.String("names", "numbered", "or random: ids that tell nothing")
	ledger       *os.File

	sizes      = []int{0, 10, 1000, 20_000, 100_000}
	connection *grpc.ClientConn
	begun      sync.Once
)

// Messages are bytes as they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (raw) Unmarshal(bytes []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), bytes...)
	return nil
}

// The id of a call; an empty cause is background work.
func name(cause, number string, status int) string {
	id := cause + "." + number
	if cause == "" {
		cause, id = "-", fmt.Sprintf("bg-%d-%s", os.Getpid(), number)
	}
	if *names == "random" {
		id = fmt.Sprintf("%016x", rand.Uint64())
	}
	if ledger != nil {
		fmt.Fprintf(ledger, "%s %s %d\n", id, cause, status)
	}
	return id
}

// The call, before which now and then one fails that has to be tried again.
func call(cause string, number int) {
	if ledger != nil && rand.Float64() < 0.03 {
		send(name(cause, fmt.Sprintf("%d-failed", number), 503), true)
	}
	send(name(cause, strconv.Itoa(number), 200), false)
}

func send(id string, fails bool) {
	body := bytes.Repeat([]byte("b"), []int{0, 1, 500, 30_000}[rand.Intn(4)])
	if *byHTTP == "call" {
		url := fmt.Sprintf("http://%s/work/%s?k=v", *downstream, id)
		if fails {
			url += "&fail=yes"
		}
		response, err := http.Post(url, "text/plain", bytes.NewReader(body))
		if err != nil {
			log.Fatal(err)
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil || (response.StatusCode != 200) != fails {
			log.Fatal(id, " ", response.StatusCode, " ", err)
		}
		return
	}
	ctx := context.Background()
	if fails {
		ctx = metadata.AppendToOutgoingContext(ctx, "fail", "yes")
	}
	if _, err := ask(ctx, id, body); (err != nil) != fails {
		log.Fatal(id, " ", err)
	}
}

// By a call with one answer, or as many as the server likes.
func ask(ctx context.Context, id string, message []byte) (answer []byte, err error) {
	method := "/test/work/" + id
	if rand.Float64() < 0.5 {
		err = connection.Invoke(ctx, method, &message, &answer)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return
	}
	if err = stream.SendMsg(&message); err == nil {
		err = stream.CloseSend()
	}
	for err == nil {
		var piece []byte
		err = stream.RecvMsg(&piece)
		answer = append(answer, piece...)
	}
	if err == io.EOF {
		err = nil
	}
	return
}

func delayedCall(cause string, number int) {
	time.Sleep(time.Duration(rand.Intn(3000)) * time.Microsecond)
	switch *model {
	case "plain":
		call(cause, number)
	case "forget":
		go func() {
			time.Sleep(time.Duration(rand.Intn(3000)) * time.Microsecond)
			call(cause, number)
		}()
	case "hired":
		job := job{cause, number, make(chan struct{})}
		select {
		case jobs <- job:
		default:
			go work(job)
		}
		<-job.done
	case "workers":
		job := job{cause, number, make(chan struct{})}
		jobs <- job
		<-job.done
	}
}

type job struct {
	cause  string
	number int
	done   chan struct{}
}

var jobs = make(chan job)

// Does this job and those that come later.
func work(job job) {
	for {
		call(job.cause, job.number)
		close(job.done)
		job = <-jobs
	}
}

// The answer to a request.
func serve(id string) []byte {
	if *downstream == "" {
		return bytes.Repeat([]byte("x"), sizes[rand.Intn(len(sizes))])
	}
	if *backgroundMs > 0 {
		begun.Do(func() { go background() })
	}
	calls := rand.Intn(4)
	if rand.Float64() < 0.5 {
		var group sync.WaitGroup
		for number := range calls {
			group.Add(1)
			go func() {
				defer group.Done()
				delayedCall(id, number)
			}()
		}
		group.Wait()
	} else {
		for number := range calls {
			delayedCall(id, number)
		}
	}
	answer := []byte(fmt.Sprintf("calls=%d\n", calls))
	return append(answer, bytes.Repeat([]byte("x"), sizes[rand.Intn(len(sizes))])...)
}

func serveGRPC(_ any, stream grpc.ServerStream) error {
	var message []byte
	if err := stream.RecvMsg(&message); err != nil {
		return err
	}
	fields, _ := metadata.FromIncomingContext(stream.Context())
	if len(fields.Get("fail")) > 0 {
		return status.Error(codes.Unavailable, "not this time")
	}
	method, _ := grpc.MethodFromServerStream(stream)
	answer := serve(strings.TrimPrefix(method, "/test/work/"))
	return stream.SendMsg(&answer)
}

func serveHTTP(writer http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	id := strings.TrimPrefix(request.URL.Path, "/work/")
	if !*handOn {
		writer.Write(serve(id))
		return
	}
	// Who goes away before the answer has its stream given up.
	answer, err := ask(request.Context(), id, body)
	if err != nil {
		http.Error(writer, err.Error(), http.StatusBadGateway)
		return
	}
	// As long as its message was with what gRPC puts before it.
	writer.Write(append([]byte("grpc:"), answer...))
}

func background() {
	for number := 0; ; number++ {
		time.Sleep(time.Duration(rand.Float64()*2*float64(*backgroundMs)*1e6) * time.Nanosecond)
		call("", number)
	}
}

func main() {
	flag.Parse()
	var err error
	if *ledgerPath != "" {
		if ledger, err = os.OpenFile(*ledgerPath, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
			log.Fatal(err)
		}
	}
	clientSide, serverSide := insecure.NewCredentials(), insecure.NewCredentials()
	if *speaksTLS {
		clientSide = certificate.Client()
		serverSide = certificate.Server()
	}
	if *downstream != "" && *byHTTP != "call" {
		connection, err = grpc.NewClient("passthrough:///"+*downstream, grpc.WithTransportCredentials(clientSide),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
		if err != nil {
			log.Fatal(err)
		}
	}
	if *model == "workers" {
		for range 12 {
			go func() { work(<-jobs) }()
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("PORT", listener.Addr().(*net.TCPAddr).Port)
	if *byHTTP == "serve" || *handOn {
		log.Fatal(http.Serve(listener, http.HandlerFunc(serveHTTP)))
	}
	server := grpc.NewServer(grpc.Creds(serverSide), grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(serveGRPC),
		grpc.NumStreamWorkers(uint32(*workers)))
	log.Fatal(server.Serve(listener))
}
