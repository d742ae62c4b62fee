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

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/fault"
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
		if server.Unknown(o) {
			if err := enrollAtTerminal(cmd.Context(), p, s, o.APIURL); err != nil {
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

// predecessor is how long a server that is ending may take to leave the data
// directory to the next one.
const predecessor = 30 * time.Second

// follow runs the server until ctx ends or it can't go on. The configuration
// brings what is not made here.
func follow(ctx context.Context, p Process, s *setup, c server.Config) error {
	o := c.Options
	dir, err := state.Await(ctx, s.common.DataDir, predecessor, func() {
		s.logger.Warn("another eds uses the data directory; waiting for it to end", "data", s.common.DataDir)
	})
	if err != nil {
		return err
	}
	defer dir.Close()
	registry := telemetry.NewRegistry(s.build)
	health := c.Health
	c.Build, c.State, c.Lookup, c.Registry, c.Logger, c.Log, c.PID = s.build, dir, p.Lookup, registry, s.logger, s.log, os.Getpid()
	worker, err := server.New(c)
	if err != nil {
		return refused(err)
	}
	web, err := telemetry.Listen(ctx, telemetry.HTTPOptions{
		Host: o.Host, Port: o.Port, Health: health, Metrics: registry, Build: s.build, Logger: s.logger,
	})
	if err != nil {
		return err
	}
	s.logger.Info("eds is starting", "version", s.build.Version, "data", s.common.DataDir, "health", fmt.Sprintf("http://%s/", reachable(web.Addr())))

	serving, stop := context.WithCancel(hard(ctx))
	var g errgroup.Group
	g.Go(func() error { return web.Run(serving) })
	if door, err := listenStatus(s.common.DataDir); err != nil {
		s.logger.Warn("eds status will not work", "error", err)
	} else {
		g.Go(func() error { return serveStatus(serving, door, worker.Report) })
	}
	err = worker.Run(ctx, hard(ctx))
	stop()
	switch {
	case errors.As(err, new(*server.DestinationError)):
		err = usageError{err}
	case errors.Is(err, server.ErrReplaced):
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
