package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func newServer(p Process) *cobra.Command {
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
	common := config.BindCommon(cmd.PersistentFlags())
	flags := config.BindServer(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := begin(p, common, "server")
		if err != nil {
			return err
		}
		defer s.close()
		o, err := flags.Resolve(s.common, config.Lookup(p.Lookup), s.file)
		if err != nil {
			return usage(err)
		}
		return follow(cmd.Context(), p, s, o)
	}
	cmd.AddCommand(newDriverHelp(p))
	return cmd
}

// follow runs the server until ctx ends or it can't go on.
func follow(ctx context.Context, p Process, s *setup, o config.Server) error {
	dir, err := state.Open(s.common.DataDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	registry, health := telemetry.NewRegistry(s.build), telemetry.NewHealth()
	worker, err := server.New(server.Config{
		Options: o, Build: s.build, State: dir, Lookup: p.Lookup, Registry: registry, Health: health, Logger: s.logger, Log: s.log,
	})
	if err != nil {
		return refused(err)
	}
	web, err := telemetry.Listen(ctx, telemetry.HTTPOptions{
		Host: o.Host, Port: o.Port, Health: health, Metrics: registry, Build: s.build, Logger: s.logger,
	})
	if err != nil {
		return err
	}
	s.logger.Info("eds is starting", "version", s.build.Version, "data", s.common.DataDir, "health", fmt.Sprintf("http://%s/", web.Addr()))

	serving, stop := context.WithCancel(hard(ctx))
	var g errgroup.Group
	g.Go(func() error { return web.Run(serving) })
	err = worker.Run(ctx, hard(ctx))
	stop()
	if errors.As(err, new(*server.DestinationError)) {
		err = usageError{err}
	}
	if err = errors.Join(err, g.Wait()); err != nil {
		s.logger.Error("eds stops", "error", err)
		return silentError{err}
	}
	s.logger.Info("eds has stopped; everything it had received is applied")
	return nil
}

// refused gives errors that only a person can mend, before anything works, the
// exit code of a refusal.
func refused(err error) error {
	if err != nil && fault.Of(err) == fault.Fatal {
		return usageError{err}
	}
	return err
}
