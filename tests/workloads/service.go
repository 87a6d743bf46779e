// A goroutine-per-connection HTTP service: answers /work/ID after up to three calls of /work/ID.N downstream, one after
// the other or at once. Meanwhile a goroutine calls the same downstream, through the same transport, as /work/bg-PID-N.
package main

import (
	"bytes"
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
)

var (
	downstream   = flag.String("downstream", "", "HOST:PORT")
	fixedCalls   = flag.Int("calls", -1, "always this many calls")
	delayMs      = flag.Int("delay-ms", 0, "wait up to this long before answering")
	backgroundMs = flag.Int("background-ms", 15, "0: no background calls")
	ledgerPath   = flag.String("ledger", "", "file to write the truth to: a call's id, its request's or -, its status")
	names        = flag.String("names", "numbered", "or random: ids that tell nothing")
	ledger       *os.File

	sizes  = []int{0, 10, 1000, 20_000, 100_000}
	pooled = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	fresh  = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
)

// The id of a call; an empty cause is background work.
func name(cause string, number int) string {
	id := fmt.Sprintf("%s.%d", cause, number)
	if cause == "" {
		cause, id = "-", fmt.Sprintf("bg-%d-%d", os.Getpid(), number)
	}
	if *names == "random" {
		id = fmt.Sprintf("%016x", rand.Uint64())
	}
	if ledger != nil {
		fmt.Fprintf(ledger, "%s %s 200\n", id, cause)
	}
	return id
}

func call(id string) {
	client := fresh
	if rand.Float64() < 0.6 {
		client = pooled
	}
	url := fmt.Sprintf("http://%s/work/%s?k=v", *downstream, id)
	var response *http.Response
	var err error
	if rand.Float64() < 0.25 {
		body := bytes.Repeat([]byte("b"), []int{1, 500, 30_000}[rand.Intn(3)])
		response, err = client.Post(url, "text/plain", bytes.NewReader(body))
	} else {
		response, err = client.Get(url)
	}
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != 200 {
		log.Fatal(id, " ", response.StatusCode, " ", err)
	}
}

func delayedCall(id string) {
	time.Sleep(time.Duration(rand.Intn(3000)) * time.Microsecond)
	call(id)
}

func serve(writer http.ResponseWriter, request *http.Request) {
	io.Copy(io.Discard, request.Body)
	id := strings.TrimPrefix(request.URL.Path, "/work/")
	time.Sleep(time.Duration(rand.Float64() * float64(*delayMs) * float64(time.Millisecond)))
	calls := 0
	if *downstream != "" {
		calls = *fixedCalls
		if calls < 0 {
			calls = rand.Intn(4)
		}
		if rand.Float64() < 0.5 {
			var group sync.WaitGroup
			for number := range calls {
				group.Go(func() { delayedCall(name(id, number)) })
			}
			group.Wait()
		} else {
			for number := range calls {
				delayedCall(name(id, number))
			}
		}
	}
	body := append([]byte(fmt.Sprintf("calls=%d\n", calls)), bytes.Repeat([]byte("x"), sizes[rand.Intn(len(sizes))])...)
	if rand.Float64() < 0.5 {
		writer.Header().Set("Content-Length", strconv.Itoa(len(body)))
		writer.Write(body)
		return
	}
	for len(body) > 0 {
		piece := body[:min(len(body), 7000)]
		writer.Write(piece)
		writer.(http.Flusher).Flush()
		body = body[len(piece):]
	}
}

func background() {
	for number := 0; ; number++ {
		time.Sleep(time.Duration(rand.Float64()*2*float64(*backgroundMs)*1e6) * time.Nanosecond)
		call(name("", number))
	}
}

func main() {
	flag.Parse()
	if *ledgerPath != "" {
		var err error
		if ledger, err = os.OpenFile(*ledgerPath, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
			log.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("PORT", listener.Addr().(*net.TCPAddr).Port)
	if *downstream != "" && *backgroundMs > 0 {
		go background()
	}
	log.Fatal(http.Serve(listener, http.HandlerFunc(serve)))
}
