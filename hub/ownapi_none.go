//go:build noapiserver

package hub

import (
	"context"
	"errors"

	"k8s.io/client-go/rest"
)

// startOwnAPI fails: images are built without an API server, which is most of the
// program and of the memory of a hub that has nothing to do.
func (o *Options) startOwnAPI(context.Context, *stack, *Addresses) (*rest.Config, error) {
	return nil, errors.New("--embedded: this build has no API server of its own; leave the flag out, or use a sealane-hub that was built without the tag noapiserver")
}
