package sinktest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy is a TCP proxy on a loopback address, in front of a server. It can cut connections, hold
// back answers and swallow answers. It is a Staller whose steps are bytes of answers.
type Proxy struct {
	listener net.Listener
	target   string

	mu       sync.Mutex
	repaired *sync.Cond
	answers  int // number of bytes of answers so far
	limit    int // of answers, where mode is not ""
	mode     Mode
	stalled  bool
	conns    map[net.Conn]struct{}
	closed   bool
	group    sync.WaitGroup
}

// NewProxy starts a proxy in front of the server at target, which is host:port. The proxy stops
// when the test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, target: target, conns: make(map[net.Conn]struct{})}
	p.repaired = sync.NewCond(&p.mu)
	p.group.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr returns the proxy's own host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Steps returns the number of bytes of answers so far.
func (p *Proxy) Steps() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers
}

// Break lets n more bytes of answers pass. In mode Lost, it then cuts every connection. In mode
// Answered, it still delivers requests until the server sends the next answer, swallows that
// answer, and then cuts the connections. In both modes it refuses new connections afterwards.
func (p *Proxy) Break(n int, mode Mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit, p.mode = p.answers+n, mode
	if n == 0 && mode == Lost {
		p.cutAll()
	}
}

// Cut cuts every open connection. It does not refuse new connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAll()
}

// Stall holds back every answer and every new connection.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = true
}

// Repair ends the effects of Break and Stall.
func (p *Proxy) Repair() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode != "" {
		p.cutAll() // a connection with an incomplete answer is useless
	}
	p.mode, p.stalled = "", false
	p.repaired.Broadcast()
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed, p.stalled = true, false
	p.listener.Close()
	p.cutAll()
	p.repaired.Broadcast()
	p.mu.Unlock()
	p.group.Wait()
}

// cutAll cuts every connection. The caller holds mu.
func (p *Proxy) cutAll() {
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.group.Go(func() { p.serve(client) })
	}
}

// serve forwards one connection until either side ends it, or a fault does.
func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	if !p.admit(client) {
		return
	}
	defer p.forget(client)
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.admit(server) {
		return
	}
	defer p.forget(server)
	var requests sync.WaitGroup
	requests.Go(func() {
		_, _ = io.Copy(server, client)
		// The client has closed or lost its connection, so tell the server.
		_ = server.(*net.TCPConn).CloseWrite()
	})
	p.answer(client, server)
	client.Close()
	server.Close()
	requests.Wait()
}

// admit registers a connection, and reports whether the proxy accepts it. While everything is
// broken, the proxy accepts none.
func (p *Proxy) admit(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.broken() {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) broken() bool { return p.mode != "" && p.answers >= p.limit }

// answer forwards the server's answers until the connection ends.
func (p *Proxy) answer(client, server net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := server.Read(buffer)
		if n > 0 {
			passing := p.pass(n)
			if passing == 0 {
				return
			}
			if _, failed := client.Write(buffer[:passing]); failed != nil {
				return
			}
			p.passed()
			if passing < n { // swallow the rest of the answer
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass waits while answers are stalled. Then it counts n bytes of an answer, and returns how many
// of these bytes may pass.
func (p *Proxy) pass(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.stalled && !p.closed {
		p.repaired.Wait()
	}
	if p.mode != "" {
		n = max(0, min(n, p.limit-p.answers))
	}
	p.answers += n
	return n
}

// passed is called after bytes of an answer were forwarded. In mode Lost, it cuts the connections
// if no more bytes may pass. In mode Answered, the connections stay open until the server answers
// another request.
func (p *Proxy) passed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken() && p.mode == Lost {
		p.cutAll()
	}
}
