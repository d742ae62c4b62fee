package e2e_test

import (
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// spellings returns URLs of one database, which a proxy offers at PostgreSQL's own port,
// and the environment that they refer to. The first one is plain.
func spellings(t *testing.T, d *database) (urls map[string]string, plain string, env []string) {
	t.Helper()
	u, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	pid := os.Getpid() // each process has an address of its own
	host := fmt.Sprintf("127.%d.%d.%d", 1+pid>>16&0x7f, pid>>8&0xff, 1+pid&0x7f)
	newProxy(t, host+":5432", u.Host)
	plain = "postgres://postgres@" + host + ":5432/" + d.name + "?sslmode=disable&application_name=eds"
	return map[string]string{
		"plain":               plain,
		"scheme alias":        strings.Replace(plain, "postgres://", "postgresql://", 1),
		"option order":        "postgres://postgres@" + host + ":5432/" + d.name + "?application_name=eds&sslmode=disable",
		"other option":        plain + "&connect_timeout=7",
		"default port":        strings.Replace(plain, ":5432/", "/", 1),
		"variable host":       strings.Replace(plain, host, "${E2E_HOST}", 1),
		"variable database":   strings.Replace(plain, d.name, "${E2E_DATABASE}", 1),
		"variable user":       strings.Replace(plain, "postgres@", "${E2E_USER}@", 1),
		"address of the host": d.url,
	}, plain, []string{"E2E_HOST=" + host, "E2E_DATABASE=" + d.name, "E2E_USER=postgres"}
}

// events returns how many events a server has received.
func (p *process) events() float64 {
	p.t.Helper()
	_, metrics := p.get("metrics")
	match := totalEvents.FindStringSubmatch(metrics)
	if match == nil {
		p.t.Fatalf("no count of events in\n%s", metrics)
	}
	n, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// TestDestination_IsTheSameUnderAnotherSpelling imports under one spelling and continues under the
// others.
func TestDestination_IsTheSameUnderAnotherSpelling(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	urls, plain, env := spellings(t, d)
	w.extraEnv, w.url = env, plain
	w.imports()
	p := w.serve()
	w.continues(p, 300)
	p.stop()
	for name, spelling := range urls {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			w.url = spelling
			p := w.serve()
			before := w.last()
			w.continues(p, 20)
			w.unreserved(p)
			if n := p.events(); n > float64(w.last()-before) {
				t.Errorf("%v events were read, of %d that are new", n, w.last()-before)
			}
			p.stop()
			w.url = d.url
			w.equal()
		})
	}
}

// configure makes HQ configure a destination, and import into it if asked.
func (w *world) configure(p *process, session, target string, imports int, backfill bool) {
	w.t.Helper()
	answer := w.ask(p, session, "configure", map[string]any{"url": target, "backfill": backfill, "updateStrategy": "standard"})
	want(w.t, answer, "success", true)
	if imports > 0 {
		w.notify(session, "import", map[string]any{"backfill": backfill})
		want(w.t, w.received(p, session, "import-response", imports), "success", true)
	}
}

// TestDestination_ContinuesUnderAnotherSpellingFromHQ needs no import.
func TestDestination_ContinuesUnderAnotherSpellingFromHQ(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, "", devhq.Options{})
	p := w.serve()
	session := w.session(p, "")
	w.configure(p, session, d.url, 1, true)
	d.reaches(p, w.work(100))
	w.configure(p, session, strings.Replace(d.url, "postgres://", "postgresql://", 1), 0, false)
	d.reaches(p, w.work(100))
	w.continues(p, 10)
	w.unreserved(p)
	p.stop()
	w.url = d.url
	w.equal()
}

// TestDestination_AnotherDatabaseNeedsAnImport goes from A to B, which is empty, and back to A,
// which continues from its position.
func TestDestination_AnotherDatabaseNeedsAnImport(t *testing.T) {
	t.Parallel()
	a, b := newDatabase(t), newDatabase(t)
	w := newWorld(t, a.url, devhq.Options{})
	w.imports()
	p := w.serve()
	w.continues(p, 200)
	p.stop()
	w.url = b.url
	w.gap(w.serve(), "eds import")
	w.imports()
	p = w.serve()
	w.continues(p, 200)
	p.stop()
	w.equal()
	w.url = a.url
	p = w.serve()
	w.continues(p, 20)
	w.unreserved(p)
	p.stop()
	w.equal()
}

// TestDestination_ContinuesWhenHQConfiguresItAgain goes from A to B and back to A.
func TestDestination_ContinuesWhenHQConfiguresItAgain(t *testing.T) {
	t.Parallel()
	a, b := newDatabase(t), newDatabase(t)
	w := newWorld(t, "", devhq.Options{})
	p := w.serve()
	session := w.session(p, "")
	w.configure(p, session, a.url, 1, true)
	a.reaches(p, w.work(100))
	w.configure(p, session, b.url, 2, true)
	b.reaches(p, w.work(100))
	w.configure(p, session, a.url, 0, false)
	a.reaches(p, w.work(100))
	w.continues(p, 10)
	w.unreserved(p)
	p.stop()
	w.url = a.url
	w.equal()
}

// TestDestination_CloneIsFollowedFromItsOwnCheckpoint clones a database with its
// records, which lags when the server begins to follow it, from its own data directory
// and from a new one.
func TestDestination_CloneIsFollowedFromItsOwnCheckpoint(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{"same data directory": "", "new data directory": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w := newWorld(t, d.url, devhq.Options{})
			w.imports()
			p := w.serve()
			w.continues(p, 100)
			clone := d.copy()
			w.continues(p, 200)
			p.stop()
			other := w
			if data != "" {
				other = w.from(data)
			}
			other.url = clone.url
			p = other.serve()
			other.continues(p, 20)
			p.stop()
			other.equal()
			w.url = d.url
			p = w.serve()
			w.continues(p, 20)
			p.stop()
			w.equal()
		})
	}
}
