package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/agent"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/control"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func newServer(p Process, common *config.CommonFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Follow every change into the destination",
		Long: `Follows the stream of changes into the destination, from where the last import
or the last run ended, until it is told to stop. It waits for a network or a
destination that is down, for as long as it takes.

Health is at http://<host>:<port>/ and metrics are at /metrics.`,
		Example: `  eds server --url 'postgres://user:${PASSWORD}@host:5432/database'
  eds server help postgres`,
		Args: noArgs,
	}
	flags := bindServer(common, cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := begin(p, flags.common, "")
		if err != nil {
			return err
		}
		defer s.close()
		o, err := flags.resolve(p, s)
		if err != nil {
			return err
		}
		if server.NeedsEnrolment(o) {
			if err := enrollAtTerminal(cmd.Context(), p, s, o.HQ); err != nil {
				return err
			}
		}
		return supervise(cmd.Context(), p, s, o, flags)
	}
	cmd.AddCommand(newDriverHelp(p))
	return cmd
}

// serverFlags are the flags of eds server, which its worker has too.
type serverFlags struct {
	common   *config.CommonFlags
	server   *config.ServerFlags
	releases *config.ReleaseFlags
}

// bindServer adds the flags of eds server alone to fs.
func bindServer(common *config.CommonFlags, fs *pflag.FlagSet) serverFlags {
	return serverFlags{common, config.BindServer(fs), config.BindRelease(fs)}
}

func (f serverFlags) release() config.Release { return f.releases.Resolve() }

func (f serverFlags) resolve(p Process, s *setup) (config.Server, error) {
	o, err := f.server.Resolve(s.common, config.Lookup(p.Lookup), s.file)
	return o, usage(err)
}

// predecessor is how long the next server waits for the data directory of one that is
// ending: longer than that one may take without a parent.
const predecessor = orphanLimit + 15*time.Second

// follow runs the server until soft ends or it cannot go on; if hard ends, it stops at
// once. The configuration brings what is not made here.
func follow(soft, hard context.Context, p Process, s *setup, c server.Config) error {
	o := c.Options
	dir, err := state.Await(soft, s.common.DataDir, predecessor, func() {
		s.logger.Warn("another eds uses the data directory; waiting for it to end", "data", s.common.DataDir)
	})
	if errors.Is(err, state.ErrInUse) && soft.Err() != nil {
		return nil // nothing was begun
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	health := c.Health
	registry := telemetry.NewRegistry(s.build, health)
	c.Build, c.State, c.Lookup, c.Registry, c.Logger, c.Log, c.PID = s.build, dir, p.Lookup, registry, s.logger, s.log, os.Getpid()
	worker, err := server.New(c)
	if err != nil {
		return refused(err)
	}
	web, err := telemetry.Listen(hard, telemetry.HTTPOptions{
		Host: o.Host, Port: o.Port, Health: health, Metrics: registry, Build: s.build, Logger: s.logger,
	})
	if err != nil {
		return err
	}
	s.logger.Info("eds is starting", "version", s.build.Version, "data", s.common.DataDir, "health", fmt.Sprintf("http://%s/", reachable(web.Addr())))

	serving, stop := context.WithCancel(context.WithoutCancel(hard))
	var g errgroup.Group
	g.Go(func() error { return web.Run(serving) })
	if socket, err := control.Listen(hard, s.common.DataDir); err != nil {
		s.logger.Warn("eds status, and eds import beside this server, will not work", "error", err)
	} else {
		g.Go(func() error { return control.Serve(serving, socket, worker) })
	}
	err = worker.Run(soft, hard)
	stop()
	switch {
	case errors.As(err, new(*reconciler.DestinationError)):
		err = usageError{err}
	case errors.Is(err, agent.ErrReplaced):
		return errors.Join(g.Wait(), err)
	}
	if err = errors.Join(err, g.Wait()); err != nil {
		s.logger.Error("eds stops", "error", err)
		return silentError{err}
	}
	s.logger.Info("eds has stopped; everything it had received is applied")
	return nil
}

// reachable returns how a program on this machine names what listens on a.
func reachable(a *net.TCPAddr) string {
	if a.IP.IsUnspecified() {
		return net.JoinHostPort("localhost", strconv.Itoa(a.Port))
	}
	return a.String()
}

// refused gives errors that only a person can mend, before anything works, the
// exit code of a refusal.
func refused(err error) error {
	if err != nil && fault.Of(err) == fault.Fatal {
		return usageError{err}
	}
	return err
}
