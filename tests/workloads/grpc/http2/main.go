// HTTP/2 of golang.org/x/net in clear: serves by prior knowledge and by upgrade, or calls where --target names a server, many
// at a time on one connection. What becomes of a request is in its number, /N: see outcome. With --downstream the server asks
// another one for /N-0 and /N-1 before it answers, one after the other or at once. The client writes what it got to standard
// output: PATH STATUS BYTES, or E8 for a request that it gave up.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

var (
	target      = flag.String("target", "", "HOST:PORT to call; without one it serves")
	downstream  = flag.String("downstream", "", "HOST:PORT that is asked for each request")
	count       = flag.Int("count", 100, "calls")
	concurrency = flag.Int("concurrency", 10, "calls at a time, on one connection")

	transport = &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, address)
		},
	}
)

// Status of the request of this number; 0: it is given up.
func outcome(number int) int {
	switch number % 20 {
	case 3:
		return http.StatusNotFound
	case 7:
		return http.StatusServiceUnavailable
	case 9:
		return 0
	}
	return http.StatusOK
}

func number(path string) int {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "-")
	number, _ := strconv.Atoi(first)
	return number
}

func ask(ctx context.Context, host, path string) (status, length int, err error) {
	request, err := http.NewRequestWithContext(ctx, "GET", "http://"+host+path, nil)
	if err != nil {
		return
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, len(body), err
}

func handle(writer http.ResponseWriter, request *http.Request) {
	number := number(request.URL.Path)
	status := outcome(number)
	if *downstream != "" {
		asks := func(part int) { ask(context.Background(), *downstream, fmt.Sprintf("%s-%d", request.URL.Path, part)) }
		var both sync.WaitGroup
		for part := range 2 {
			if number%2 == 0 {
				asks(part)
				continue
			}
			both.Add(1)
			go func() {
				defer both.Done()
				asks(part)
			}()
		}
		both.Wait()
	}
	if status == 0 && *downstream == "" && strings.Contains(request.URL.Path, "-") {
		// The one in front waits for its own caller.
		status = http.StatusOK
	}
	if status == 0 {
		<-request.Context().Done()
		return
	}
	writer.WriteHeader(status)
	io.WriteString(writer, strings.Repeat("x", number%1000))
}

func call(path string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if outcome(number(path)) == 0 {
		time.AfterFunc(50*time.Millisecond, cancel)
	}
	status, length, err := ask(ctx, *target, path)
	if err != nil {
		fmt.Println(path, "E8 0")
		return
	}
	fmt.Println(path, status, length)
}

func main() {
	flag.Parse()
	if *target == "" {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("PORT", listener.Addr().(*net.TCPAddr).Port)
		log.Fatal(http.Serve(listener, h2c.NewHandler(http.HandlerFunc(handle), &http2.Server{})))
	}
	var next atomic.Int64
	var done sync.WaitGroup
	for range *concurrency {
		done.Add(1)
		go func() {
			defer done.Done()
			for number := int(next.Add(1)) - 1; number < *count; number = int(next.Add(1)) - 1 {
				call(fmt.Sprintf("/%d", number))
			}
		}()
	}
	done.Wait()
	// What gives streams up is sent behind the program's back.
	time.Sleep(50 * time.Millisecond)
}
