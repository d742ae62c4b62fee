package snapshot

import (
	"sync"
	"time"
)

// Phase is what is happening to a table.
type Phase uint8

const (
	Waiting   Phase = iota + 1 // for HQ to export it
	Queued                     // for other tables to be done
	Loading                    // downloading its files and loading their rows
	Finishing                  // putting its rows in place
	Done
	Failed
)

func (p Phase) String() string {
	return [...]string{"", "waiting", "queued", "loading", "finishing", "done", "failed"}[p]
}

// Progress is how far the import of one table is.
type Progress struct {
	Table      string
	Phase      Phase
	Rows       int64
	Bytes      int64 // of files, compressed, whose rows are loaded
	Downloaded int64 // of files, compressed
	// TotalBytes is the size of all files; until each was asked for, an
	// estimate from those that were. 0 where nothing is known.
	TotalBytes int64
	Files      int // loaded
	TotalFiles int
	Err        error // of a table that failed
}

func (p Progress) unsized() bool {
	return p.Phase > 0 && p.Phase < Finishing && p.TotalBytes == 0
}

// Totals are the sums over all tables.
type Totals struct {
	Tables, Done, Failed int
	Rows                 int64
	Bytes, Downloaded    int64
	TotalBytes           int64
	// Unsized is the number of tables under way whose size is not known yet, so
	// that TotalBytes lacks them.
	Unsized int
}

// Observer is told of progress: of each change of phase, and in between at most
// ten times a second and table. Calls are serial; they hold the import up.
type Observer func(Progress, Totals)

// observeEvery is how often a table's progress within a phase is told.
const observeEvery = 100 * time.Millisecond

// tracker adds up the progress of all tables.
type tracker struct {
	observe Observer

	mu     sync.Mutex
	tables map[string]*tableProgress
	totals Totals
}

// tableProgress is the progress of one table. Its methods may be called
// concurrently.
type tableProgress struct {
	tracker *tracker
	now     Progress
	sizes   map[string]int64 // of files, where known
	have    map[string]int64 // downloaded of files
	files   map[string]bool  // that are loaded
	told    time.Time
	watch   *watch // told of progress; nil: none
}

func newTracker(o Observer) *tracker {
	if o == nil {
		o = func(Progress, Totals) {}
	}
	return &tracker{observe: o, tables: make(map[string]*tableProgress)}
}

// table returns the progress of a table, which begins by waiting.
func (t *tracker) table(name string) *tableProgress {
	t.expect(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tables[name]
}

// expect counts tables, all of them before it tells of the first.
func (t *tracker) expect(names ...string) {
	var added []*tableProgress
	t.mu.Lock()
	for _, name := range names {
		if t.tables[name] != nil {
			continue
		}
		p := &tableProgress{
			tracker: t, now: Progress{Table: name},
			sizes: make(map[string]int64), have: make(map[string]int64), files: make(map[string]bool),
		}
		t.tables[name] = p
		added = append(added, p)
	}
	t.totals.Tables += len(added)
	t.mu.Unlock()
	for _, p := range added {
		p.phase(Waiting)
	}
}

// change applies f and tells of it, at once where that is asked for.
func (p *tableProgress) change(atOnce bool, f func(*Progress)) {
	t := p.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	before := p.now
	f(&p.now)
	if p.now.Rows > before.Rows || p.now.Downloaded > before.Downloaded || p.now.Files > before.Files {
		p.watch.progress()
	}
	if p.now.Downloaded > before.Downloaded {
		for _, other := range t.tables {
			other.watch.downloaded()
		}
	}
	p.now.TotalBytes = p.estimate()
	t.totals.Rows += p.now.Rows - before.Rows
	t.totals.Bytes += p.now.Bytes - before.Bytes
	t.totals.Downloaded += p.now.Downloaded - before.Downloaded
	t.totals.TotalBytes += p.now.TotalBytes - before.TotalBytes
	t.totals.Unsized += count(p.now.unsized()) - count(before.unsized())
	t.totals.Done += count(p.now.Phase == Done) - count(before.Phase == Done)
	t.totals.Failed += count(p.now.Phase == Failed) - count(before.Phase == Failed)
	now := time.Now()
	if atOnce || now.Sub(p.told) >= observeEvery {
		p.told = now
		t.observe(p.now, t.totals)
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// estimate returns the size of all files, taking those that are not known to be
// of the mean size of those that are.
func (p *tableProgress) estimate() int64 {
	if len(p.sizes) == 0 {
		return 0
	}
	var sum int64
	for _, n := range p.sizes {
		sum += n
	}
	if unknown := int64(p.now.TotalFiles - len(p.sizes)); unknown > 0 {
		sum += sum / int64(len(p.sizes)) * unknown
	}
	return sum
}

// watched has the watch know of rows and bytes; nil: none.
func (p *tableProgress) watched(w *watch) {
	p.change(false, func(*Progress) { p.watch = w })
}

func (p *tableProgress) phase(to Phase) {
	p.change(true, func(now *Progress) { now.Phase = to })
}

func (p *tableProgress) fail(err error) {
	p.change(true, func(now *Progress) { now.Phase, now.Err = Failed, err })
}

func (p *tableProgress) expect(files int) {
	p.change(true, func(now *Progress) { now.TotalFiles = files })
}

// sized notes the size of a file.
func (p *tableProgress) sized(file string, n int64) {
	p.change(false, func(*Progress) { p.sizes[file] = n })
}

// got notes how much of a file is downloaded.
func (p *tableProgress) got(file string, n int64) {
	p.change(false, func(now *Progress) {
		now.Downloaded += n - p.have[file]
		p.have[file] = n
	})
}

// rows notes rows of a file that is being loaded.
func (p *tableProgress) rows(rows, bytes int64) {
	p.change(false, func(now *Progress) { now.Rows, now.Bytes = now.Rows+rows, now.Bytes+bytes })
}

// loaded notes that a file is loaded; rows and bytes of it were noted.
func (p *tableProgress) loaded(file string) {
	p.change(true, func(now *Progress) {
		if !p.files[file] {
			p.files[file] = true
			now.Files++
		}
	})
}
