package cli

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// display returns an observer that shows the progress of an import, and a function that ends the
// display. A terminal shows bars. Other outputs get a line every few seconds. Nothing is shown
// until the first progress is reported, because a prompt may be open before that.
func (im *importer) display() (snapshot.Observer, func()) {
	screen, what := im.s.screen, first(im.what, "import")
	switch {
	case im.o.Silent:
		return nil, func() {}
	case screen.moves:
		b := &bars{screen: screen, what: what}
		return b.observe, b.finish
	default:
		l := &progressLines{screen: screen, what: what}
		return l.observe, func() {}
	}
}

// progressLines writes a line of progress every few seconds, and a line for each failed table.
type progressLines struct {
	screen         *screen
	what           string // label of each line
	began, written time.Time
}

// lineEvery is the minimum time between two lines of progress.
const lineEvery = 5 * time.Second

func (l *progressLines) observe(p snapshot.TableProgress, t snapshot.Totals) {
	now := time.Now()
	if l.began.IsZero() {
		l.began = now
	}
	if p.Phase == snapshot.Failed {
		writeFailure(l.screen, l.what, p)
	}
	if now.Sub(l.written) < lineEvery && t.Done+t.Failed < t.Tables {
		return
	}
	l.written = now
	fmt.Fprintf(
		l.screen, "%s: %d of %d tables, %d rows, %s (%s)\n", l.what, t.Done, t.Tables, t.Rows, sizes(t),
		pace(t, now.Sub(l.began)),
	)
}

func writeFailure(s *screen, what string, p snapshot.TableProgress) {
	fmt.Fprintf(s, "%s: table %s failed: %v\n", what, p.Table, p.Err)
}

// sizes formats the number of loaded bytes, and the total number if it is known.
func sizes(t snapshot.Totals) string {
	if t.Unsized > 0 {
		return size(t.Bytes)
	}
	return size(t.Bytes) + " of " + size(t.TotalBytes)
}

// pace formats an import's elapsed time and rate, and its remaining time if it is known.
func pace(t snapshot.Totals, elapsed time.Duration) string {
	text := fmt.Sprintf("%v, %.0f rows/s", elapsed.Round(time.Second), float64(t.Rows)/max(elapsed.Seconds(), 0.001))
	if t.Unsized > 0 || t.Bytes <= 0 || t.TotalBytes <= t.Bytes {
		return text
	}
	left := time.Duration(float64(elapsed) * float64(t.TotalBytes-t.Bytes) / float64(t.Bytes))
	return fmt.Sprintf("%s, %v left", text, left.Round(time.Second))
}

// size formats a number of bytes with a binary unit.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

// bars draws a bar for each table in progress, and a bar for all tables. The method observe only
// records the progress. A separate goroutine draws the bars, so that a slow terminal cannot block
// the import.
type bars struct {
	screen *screen
	what   string // label of failures
	began  time.Time
	stop   chan struct{} // closed to stop drawing; nil before drawing has started
	done   chan struct{} // closed when drawing has stopped

	mu       sync.Mutex // guards the fields below
	totals   snapshot.Totals
	underWay []snapshot.TableProgress // progress of the tables in progress, in the order of their start
	shares   map[string]float64       // fraction of each table that is done, from 0 to 1
	failures []snapshot.TableProgress // failures that are not written yet
}

// drawEvery is the time between two updates of the bars.
const drawEvery = 150 * time.Millisecond

func (b *bars) observe(p snapshot.TableProgress, t snapshot.Totals) {
	b.record(p, t)
	if b.stop == nil {
		b.began, b.stop, b.done = time.Now(), make(chan struct{}), make(chan struct{})
		go b.run()
	}
}

func (b *bars) record(p snapshot.TableProgress, t snapshot.Totals) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shares == nil {
		b.shares = make(map[string]float64)
	}
	b.totals, b.shares[p.Table] = t, share(p)
	at := slices.IndexFunc(b.underWay, func(other snapshot.TableProgress) bool { return other.Table == p.Table })
	switch drawn := p.Phase == snapshot.Loading || p.Phase == snapshot.Finishing; {
	case drawn && at >= 0:
		b.underWay[at] = p
	case drawn:
		b.underWay = append(b.underWay, p)
	case at >= 0:
		b.underWay = slices.Delete(b.underWay, at, at+1)
	}
	if p.Phase == snapshot.Failed {
		b.failures = append(b.failures, p)
	}
}

// share returns which fraction of a table has been imported, from 0 to 1.
func share(p snapshot.TableProgress) float64 {
	switch {
	case p.Phase >= snapshot.Finishing:
		return 1
	case p.TotalBytes <= 0:
		return 0
	}
	return min(float64(p.Bytes)/float64(p.TotalBytes), 1)
}

func (b *bars) run() {
	defer close(b.done)
	ticker := time.NewTicker(drawEvery)
	defer ticker.Stop()
	for {
		b.draw()
		select {
		case <-ticker.C:
		case <-b.stop:
			return
		}
	}
}

// finish draws the final state, and leaves it on the screen.
func (b *bars) finish() {
	if b.stop == nil {
		return
	}
	close(b.stop)
	<-b.done
	b.draw()
	b.screen.keep()
}

func (b *bars) draw() {
	columns, _ := b.screen.size()
	lines, failures := b.render(columns, time.Since(b.began))
	for _, p := range failures {
		writeFailure(b.screen, b.what, p)
	}
	b.screen.show(lines...)
}

// render returns the lines of the bars, and the failures that must be written above them.
func (b *bars) render(columns int, elapsed time.Duration) (lines []string, failures []snapshot.TableProgress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	failures, b.failures = b.failures, nil
	for _, p := range b.underWay {
		lines = append(lines, bar(columns, p.Table, share(p), p.Phase.String(), p.Rows, p.Bytes))
	}
	t, done := b.totals, 0.0
	for _, s := range b.shares {
		done += s
	}
	counts := fmt.Sprintf("%d/%d", t.Done, t.Tables)
	lines = append(lines, bar(columns, "all tables", done/float64(max(t.Tables, 1)), counts, t.Rows, t.Bytes))
	return append(lines, pace(t, elapsed)), failures
}

// bar returns a line of the given number of columns. The bar in the line is full only if the
// parameter share is 1.
func bar(columns int, name string, share float64, state string, rows, bytes int64) string {
	const widest = 40
	text := fmt.Sprintf("%-9s %10d rows %10s", state, rows, size(bytes))
	width := min(columns-len(text)-25, widest)
	if width < 1 {
		return fmt.Sprintf("%-20.20s %s", name, text)
	}
	full := int(share * float64(width))
	tip := ""
	if 0 < share && full < width {
		tip = ">"
	}
	return fmt.Sprintf("%-20.20s [%-*s] %s", name, width, strings.Repeat("=", full)+tip, text)
}
