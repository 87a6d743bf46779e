// gRPC without generated code: the server takes any method, and what a method does is in its name.
//
//	/test.Echo/KIND-N…  KIND: Unary, Client, Server, Both: which side streams
//
// N decides how a call ends, so that both sides know: see outcome. The client writes what it got of each call to standard
// output: METHOD CODE SENT RECEIVED NANOSECONDS
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"workload/certificate"
)

var (
	target      = flag.String("target", "", "HOST:PORT to call; without one it serves")
	listen      = flag.String("listen", "127.0.0.1:0", "HOST:PORT to serve at")
	count       = flag.Int("count", 100, "calls")
	concurrency = flag.Int("concurrency", 10, "calls at a time, on one connection")
	kinds       = flag.String("kinds", "Unary,Client,Server,Both", "kinds of calls, in turn")
	fixed       = flag.Bool("fixed", false, "a method for each kind, so that names repeat; all calls succeed")
	holdMs      = flag.Int("hold-ms", 0, "wait so long before each answer")
	perSecond   = flag.Int("per-second", 0, "calls begun in a second; 0: as many as can be")
	size        = flag.Int("size", 20, "bytes of a message")
	onLine      = flag.Bool("on-line", false, "connect, then wait for a line of standard input")
	waits       = flag.Bool("waits", false, "wait for a line of standard input, then connect")
	speaksTLS   = flag.Bool("tls", false, "TLS, with a certificate of the server's own making that nobody looks at")
)

const messages = 5

// Messages are bytes as they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (raw) Unmarshal(bytes []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), bytes...)
	return nil
}

type end int

const (
	answered end = iota
	refused
	unavailable
	cancelled
	late
)

// How the call of this number ends.
func outcome(number int) end {
	switch number % 20 {
	case 3, 13:
		return refused
	case 7:
		return unavailable
	case 9:
		return cancelled
	case 19:
		return late
	}
	return answered
}

// The kind and number of a method.
func parse(method string) (string, int) {
	_, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	kind, number, _ := strings.Cut(name, "-")
	n, _ := strconv.Atoi(number)
	return kind, n
}

func serve(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	kind, number := parse(method)
	switch outcome(number) {
	case cancelled, late:
		<-stream.Context().Done()
		return stream.Context().Err()
	case refused:
		return status.Error(codes.NotFound, "no such thing")
	case unavailable:
		return status.Error(codes.Unavailable, "not now")
	}
	if *holdMs > 0 {
		time.Sleep(time.Duration(*holdMs) * time.Millisecond)
	}
	var message []byte
	for {
		err := stream.RecvMsg(&message)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if kind == "Both" {
			if err := stream.SendMsg(&message); err != nil {
				return err
			}
		}
	}
	answers := map[string]int{"Unary": 1, "Client": 1, "Server": messages}[kind]
	for range answers {
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
	return nil
}

func call(connection *grpc.ClientConn, method string) {
	kind, number := parse(method)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	switch outcome(number) {
	case cancelled:
		time.AfterFunc(20*time.Millisecond, cancel)
	case late:
		ctx, cancel = context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
	}
	began := time.Now()
	sent, received, err := exchange(ctx, connection, method, kind)
	took := time.Since(began)
	fmt.Printf("%s %d %d %d %d\n", strings.TrimPrefix(method, "/"), status.Code(err), sent, received, took.Nanoseconds())
}

func exchange(ctx context.Context, connection *grpc.ClientConn, method, kind string) (sent, received int, err error) {
	desc := &grpc.StreamDesc{ClientStreams: kind != "Unary" && kind != "Server", ServerStreams: kind == "Server" || kind == "Both"}
	stream, err := connection.NewStream(ctx, desc, method, grpc.ForceCodec(raw{}))
	if err != nil {
		return
	}
	message := []byte(strings.Repeat("x", *size))
	sends := map[string]int{"Unary": 1, "Server": 1, "Client": messages, "Both": messages}[kind]
	for range sends {
		// What went wrong, the receiving side says.
		if stream.SendMsg(&message) != nil {
			break
		}
		sent++
	}
	stream.CloseSend()
	for {
		var answer []byte
		if err = stream.RecvMsg(&answer); err != nil {
			break
		}
		received++
		if !desc.ServerStreams {
			return sent, received, nil
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return
}

func main() {
	flag.Parse()
	clientSide, serverSide := insecure.NewCredentials(), insecure.NewCredentials()
	if *speaksTLS {
		clientSide, serverSide = certificate.Client(), certificate.Server()
	}
	if *target == "" {
		listener, err := net.Listen("tcp", *listen)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("PORT %d\n", listener.Addr().(*net.TCPAddr).Port)
		server := grpc.NewServer(grpc.Creds(serverSide), grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(serve))
		log.Fatal(server.Serve(listener))
	}
	connection, err := grpc.NewClient("passthrough:///"+*target, grpc.WithTransportCredentials(clientSide))
	if err != nil {
		log.Fatal(err)
	}
	kinds := strings.Split(*kinds, ",")
	method := func(number int) string {
		kind := kinds[number%len(kinds)]
		if *fixed {
			return "/test.Echo/" + kind
		}
		return fmt.Sprintf("/test.Echo/%s-%d", kind, number)
	}
	if *onLine {
		exchange(context.Background(), connection, "/test.Echo/Unary-1000", "Unary")
		fmt.Println("READY")
	}
	if *onLine || *waits {
		os.Stdin.Read(make([]byte, 1))
	}
	var next atomic.Int64
	var done sync.WaitGroup
	began := time.Now()
	for range *concurrency {
		done.Add(1)
		go func() {
			defer done.Done()
			for {
				number := int(next.Add(1)) - 1
				if number >= *count {
					return
				}
				if *perSecond > 0 {
					time.Sleep(time.Until(began.Add(time.Duration(number) * time.Second / time.Duration(*perSecond))))
				}
				call(connection, method(number))
			}
		}()
	}
	done.Wait()
	// What gives streams up is sent behind the program's back.
	time.Sleep(50 * time.Millisecond)
	connection.Close()
}
