package sqltest

import (
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// LossyProxy is a proxy in front of a database server. On request it drops the response to a commit
// and closes the connection.
type LossyProxy struct {
	URL  string
	Lose atomic.Bool // set to drop the response to the next commit

	server func(response string) bool
	client func(request string)
	work   sync.WaitGroup
}

// NewLossyProxy starts a proxy in front of the server that a URL names. The callback committed
// reports whether a response confirms a commit. The callback sent, which may be nil, is called with
// each request before the request is forwarded.
func NewLossyProxy(t *testing.T, server string, sent func(request string), committed func(response string) bool) *LossyProxy {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	target := u.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.Host = l.Addr().String()
	p := &LossyProxy{URL: u.String(), server: committed, client: sent}
	p.work.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() { p.pipe(client, target) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.work.Wait()
	})
	return p
}

func (p *LossyProxy) pipe(client net.Conn, target string) {
	defer client.Close()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	p.work.Go(func() {
		defer server.Close()
		forward(server, client, func(request string) bool {
			if p.client != nil {
				p.client(request)
			}
			return true
		})
	})
	forward(client, server, func(response string) bool {
		return !p.server(response) || !p.Lose.CompareAndSwap(true, false)
	})
}

// forward copies data until an error occurs, or until the callback returns false. It does not copy
// the data for which the callback returns false.
func forward(to io.Writer, from io.Reader, passes func(data string) bool) {
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if n > 0 && !passes(string(buf[:n])) {
			return
		}
		if _, failed := to.Write(buf[:n]); failed != nil || err != nil {
			return
		}
	}
}
