// Fastify with @fastify/http-proxy and @fastify/jwt (verified tokens cached): ES256, role, identity headers.
import Fastify from 'fastify'
import jwt from '@fastify/jwt'
import proxy from '@fastify/http-proxy'

const { BENCH_PORT, BENCH_UPSTREAM, BENCH_PUBLIC_KEY, BENCH_ISSUER, BENCH_AUDIENCE } = process.env
const ROLES = { items: 'user', inspect: 'user', bulk: 'user', audit: 'auditor' }

const app = Fastify({ logger: false, keepAliveTimeout: 3_600_000 })

await app.register(jwt, {
  secret: { public: BENCH_PUBLIC_KEY },
  verify: { algorithms: ['ES256'], allowedIss: BENCH_ISSUER, allowedAud: BENCH_AUDIENCE, cache: true }
})

for (const [name, role] of Object.entries(ROLES)) {
  await app.register(proxy, {
    upstream: BENCH_UPSTREAM,
    prefix: `/api/${name}`,
    rewritePrefix: `/api/${name}`,
    undici: { connections: 256, pipelining: 1, keepAliveTimeout: 3_600_000 },
    preHandler: async (request, reply) => {
      try {
        await request.jwtVerify()
      } catch {
        return reply.code(401).send({ detail: 'Not authenticated' })
      }
      if (!request.user.roles.includes(role)) return reply.code(403).send({ detail: 'Insufficient permissions' })
    },
    replyOptions: {
      rewriteRequestHeaders: (request, headers) => {
        const { authorization, ...others } = headers
        const { sub, email, role: roles } = request.user
        return { ...others, 'x-user-id': sub, 'x-user-email': email, 'x-user-roles': roles, 'x-request-id': request.id }
      }
    }
  })
}

await app.listen({ host: '127.0.0.1', port: Number(BENCH_PORT) })
