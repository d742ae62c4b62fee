//go:build !use_custom_driver || use_devhq

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
	"github.com/shopmonkeyus/eds/internal/verify"
)

func newDemo(p Process) *cobra.Command {
	d := demo{p: p}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Try everything on this machine: a shop, a snapshot, a stream, a comparison",
		Long: `Starts a small HQ with a simulated repair shop on this machine, enrols, copies the
snapshot, follows the changes, and then compares every row and column of the
destination with the shop. Nothing has to be installed.`,
		Example: `  eds demo
  eds demo --for 2m --rate 500 --url 'postgres://user:${PASSWORD}@localhost:5432/demo'`,
		Args: noArgs,
	}
	cmd.Flags().StringVar(&d.url, "url", "", "destination (default a SQLite file, shop.db in --dir)")
	cmd.Flags().StringVar(&d.dir, "dir", "eds-demo", "`directory` for all files of the demo")
	cmd.Flags().DurationVar(&d.length, "for", 30*time.Second, "how long to follow the stream; 0 until Ctrl-C")
	cmd.Flags().Float64Var(&d.o.Rate, "rate", 200, "changes per second")
	cmd.Flags().IntVar(&d.o.Customers, "customers", 500, "customers of a new shop")
	cmd.Flags().Uint64Var(&d.o.Seed, "seed", 1, "seed of a new shop")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case d.length < 0:
			return usagef("--for: want a duration like 30s, or 0")
		case d.o.Rate < 0 || d.o.Customers < 1:
			return usagef("--rate: want 0 or more changes per second; --customers: want at least 1")
		}
		d.out = out(cmd)
		return d.run(cmd.Context())
	}
	return cmd
}

// demo is one run of "eds demo".
type demo struct {
	p      Process
	out    io.Writer
	url    string
	dir    string
	length time.Duration
	o      devhq.Options

	s  *setup
	hq *devhq.HQ
}

func (d *demo) run(ctx context.Context) (err error) {
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return err
	}
	if d.url == "" {
		d.url = "sqlite://" + filepath.ToSlash(filepath.Join(d.dir, "shop.db"))
	}
	flags := config.BindCommon(pflag.NewFlagSet("demo", pflag.ContinueOnError)) // all flags at their defaults
	if d.s, err = begin(d.p, flags, ""); err != nil {
		return err
	}
	d.s.common.DataDir, d.s.common.Silent = filepath.Join(d.dir, "eds"), true
	if err := d.s.openLog(d.p, "demo"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.s.close()) }()

	d.o.DataDir, d.o.Logger = filepath.Join(d.dir, "hq"), d.s.logger
	d.say("Starting HQ and a repair shop on this machine ...")
	// HQ continues after Ctrl-C, because the comparison at the end needs it.
	if d.hq, err = devhq.Start(hard(ctx), d.o); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.hq.Close()) }()
	d.say("  API   %s\n  NATS  %s\n", d.hq.APIURL(), d.hq.NATSURL())

	key, err := d.enroll(ctx)
	if err != nil {
		return err
	}
	if err := d.snapshot(ctx, key); err != nil {
		return err
	}
	return d.stream(ctx, key)
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// enroll enrols with the demo's HQ like a real server, and returns the key.
func (d *demo) enroll(ctx context.Context) (hq.Enrolment, error) {
	code, err := d.hq.NewEnrolment()
	if err != nil {
		return hq.Enrolment{}, err
	}
	e, err := enroll(ctx, d.s, config.HQSettings{APIURL: d.hq.APIURL()}, code)
	if err != nil {
		return hq.Enrolment{}, err
	}
	d.say("Enrolled with the code %s as server %s.\n", code, e.ServerID)
	return e, nil
}

func (d *demo) snapshot(ctx context.Context, e hq.Enrolment) error {
	d.say("Copying the snapshot into %s ...", drivers.MaskURL(d.url))
	common := d.s.common
	common.Silent = false // show the progress
	im := importer{p: d.p, s: d.s, out: d.out, o: config.ImportSettings{
		Common: common, HQSettings: config.HQSettings{APIKey: config.NewSecret(e.Token), APIURL: d.hq.APIURL()},
		URL: config.NewSecret(d.url), NoConfirm: true, Parallel: 4,
	}}
	return im.run(ctx)
}

// stream follows the changes for d.length, stops the shop, waits until the destination has
// caught up, and compares the rows.
func (d *demo) stream(ctx context.Context, e hq.Enrolment) error {
	dir, err := state.Open(d.s.common.DataDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	health := telemetry.NewHealth()
	registry := telemetry.NewRegistry(d.s.build, health)
	worker, err := server.New(server.Config{
		Options: config.ServerSettings{
			Common: d.s.common, URL: config.NewSecret(d.url),
			HQSettings: config.HQSettings{APIKey: config.NewSecret(e.Token), APIURL: d.hq.APIURL()},
			ServerID:   e.ServerID, Servers: []string{d.hq.NATSURL()}, RenewInterval: 24 * time.Hour,
		},
		Build: d.s.build, State: dir, Lookup: d.p.Lookup, Registry: registry, Health: health, Logger: d.s.logger,
	})
	if err != nil {
		return err
	}
	web, err := telemetry.Listen(ctx, telemetry.HTTPOptions{
		Host: "127.0.0.1", Health: health, Metrics: registry, Build: d.s.build, Logger: d.s.logger,
	})
	if err != nil {
		return err
	}
	d.say("\nFollowing the stream, %g changes per second. Meanwhile, see\n  %s", d.o.Rate, drivers.MaskURL(d.url))
	d.say("  http://%[1]s/         health\n  http://%[1]s/metrics  metrics\n", web.Addr())

	serving, stop := context.WithCancel(hard(ctx))
	defer stop()
	g, failed := errgroup.WithContext(serving)
	g.Go(func() error { return web.Run(serving) })
	working, finish := context.WithCancel(serving)
	g.Go(func() error { return worker.Run(working, serving) })

	err = d.watch(ctx, failed, worker)
	finish()
	stop()
	if err = errors.Join(g.Wait(), err); err != nil {
		return err
	}
	return d.compare(hard(ctx), dir, e)
}

// watch shows the state of the server until the demo's time is over. It then stops the shop,
// and continues until every change of the shop is applied.
func (d *demo) watch(ctx, failed context.Context, worker *server.Server) error {
	line := newLiveLine(d.s.screen)
	defer line.end()
	end := make(<-chan time.Time)
	if d.length > 0 {
		end = time.After(d.length)
	}
	tick := time.NewTicker(line.every)
	defer tick.Stop()
	began, target := time.Now(), uint64(0)
	interrupted := ctx.Done()
	for target == 0 || worker.Status().Position.Sequence < target {
		finish := false
		select {
		case <-failed.Done():
			return nil // the group has the error
		case <-interrupted:
			interrupted, finish = nil, true
		case <-end:
			finish = true
		case <-tick.C:
			line.show(time.Since(began), worker.Status())
		}
		if finish && target == 0 {
			var err error
			if target, err = d.quiesce(hard(ctx)); err != nil {
				return err
			}
			tick.Reset(min(line.every, 100*time.Millisecond))
		}
	}
	line.show(time.Since(began), worker.Status())
	return nil
}

// quiesce stops the shop and returns the stream sequence of its last change.
func (d *demo) quiesce(ctx context.Context) (uint64, error) {
	if err := d.hq.Pause(ctx); err != nil {
		return 0, err
	}
	s, err := d.hq.StreamState(ctx)
	return s.LastSeq, err
}

// errDiffers means that the destination differs from the shop. The details were printed in a
// table.
var errDiffers = errors.New("the destination differs from the shop")

// compare compares every row and column of the destination with the shop.
func (d *demo) compare(ctx context.Context, dir *state.Dir, e hq.Enrolment) error {
	_, destination, err := drivers.Open(ctx, d.url, d.p.Lookup, sink.Env{Logger: d.s.logger, Adjusted: func(string, string, string) {}})
	if err != nil {
		return err
	}
	defer destination.Close(ctx)
	reader := destination.Reader
	if reader == nil {
		d.say(
			"Every change is applied. eds cannot read rows from this kind of destination to compare them; see %s.",
			drivers.MaskURL(d.url),
		)
		return nil
	}
	client, err := connectHQ(d.s, config.HQSettings{APIKey: config.NewSecret(e.Token), APIURL: d.hq.APIURL()})
	if err != nil {
		return err
	}
	defer client.Close()
	tables, err := schema.NewCatalogue(client, dir).Latest(ctx)
	if err != nil {
		return err
	}
	d.say("Comparing every row and column with the shop:\n")
	snap := d.hq.Shop().Snapshot()
	t := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "table\tshop\tdestination\tdifferent\t")
	var bad []verify.Report
	rows := int64(0)
	for _, name := range d.hq.Shop().Tables() {
		want := verify.Rows(tables[name], snap.Rows(name, nil, nil))
		r, err := verify.Compare(ctx, tables[name], nil, want, reader.Read(ctx, tables[name]))
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t\n", name, r.Want, r.Got, r.Different+r.Missing+r.Extra)
		rows += r.Want
		if !r.Equal() {
			bad = append(bad, r)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range bad {
		d.say("%v", r)
	}
	if len(bad) > 0 {
		return errDiffers
	}
	d.say("\nAll %d rows are equal. The files are in %s; the next demo continues there.", rows, d.dir)
	return nil
}

// liveLine shows the state of a server. On a terminal it updates one line. Otherwise it prints
// a new line every few seconds.
type liveLine struct {
	screen  *screen
	every   time.Duration
	written time.Time
}

func newLiveLine(s *screen) *liveLine {
	l := &liveLine{screen: s, every: 250 * time.Millisecond}
	if !s.moves {
		l.every = lineEvery
	}
	return l
}

func (l *liveLine) show(elapsed time.Duration, s pipeline.Status) {
	text := fmt.Sprintf("%5.0fs  %9d events  %7.0f events/s  lag %-8v  %d tables  %s",
		elapsed.Seconds(), s.Applied, s.Rate, s.Lag.Round(time.Millisecond), len(s.Tables), s.State)
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	switch {
	case l.screen.moves:
		l.screen.show(text)
	case time.Since(l.written) >= time.Second:
		l.written = time.Now()
		fmt.Fprintln(l.screen, text)
	}
}

func (l *liveLine) end() { l.screen.keep() }
